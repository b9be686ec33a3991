//! A device that computes while the next batch is made ready: what is given when, and whose faults and results are whose.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tilesight::Error;
use tilesight::batch::{
    Batcher, Compute, Devices, Failure, Inputs, Limits, Occupancy, Phase, Place, Reply, Report, Wait,
};
use tilesight::encoder::{Encoded, Timing};
use tilesight::error::{CudaError, InputError};
use tilesight::image::Tiles;

use crate::noise::noise;
use crate::tiny_config::tiny_config;

const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough for what should not happen to happen.
const WHILE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
enum Word {
    Encode,
    Refuse,
    Lose,
    Panic,
}

/// What the encoder's thread did, in order.
#[derive(Debug, PartialEq)]
enum Call {
    Submit { device: usize, requests: usize },
    Finish,
}

/// Devices that end a batch when the test says a word for it: one a batch, in the order of the submissions. Each tile
/// becomes one value, its first.
struct Gpus {
    devices: Devices,
    calls: Sender<Call>,
    flights: Sender<Sender<Word>>,
    /// Submissions that are refused at once.
    refusals: Arc<Mutex<usize>>,
}

struct Flight {
    values: Vec<f32>,
    said: Arc<Mutex<Said>>,
}

struct Said {
    receiver: Receiver<Word>,
    word: Option<Word>,
}

impl Said {
    fn wait(&mut self) -> Word {
        *self.word.get_or_insert_with(|| self.receiver.recv().unwrap_or(Word::Lose))
    }
}

impl Compute for Gpus {
    type Submission = Flight;

    fn devices(&self) -> Devices {
        self.devices
    }

    fn submit(&mut self, device: usize, requests: &[Inputs]) -> tilesight::Result<Flight> {
        self.calls.send(Call::Submit { device, requests: requests.len() }).unwrap();
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(InputError::OutOfMemory { bytes: 1 }.into());
        }
        let first = |inputs: &Inputs| match inputs {
            Inputs::Pictures(pictures) => vec![pictures[0].pixels[0]; inputs.num_output_tiles()],
            Inputs::Pixels { .. } => unreachable!("these tests have pictures only"),
        };
        let (say, receiver) = mpsc::channel();
        self.flights.send(say).unwrap();
        let said = Arc::new(Mutex::new(Said { receiver, word: None }));
        Ok(Flight { values: requests.iter().flat_map(first).collect(), said })
    }

    fn wait(flight: &Flight) -> Option<Wait> {
        let said = flight.said.clone();
        Some(Box::new(move || {
            said.lock().unwrap().wait();
        }))
    }

    fn finish(&mut self, flight: Flight) -> tilesight::Result<Encoded> {
        self.calls.send(Call::Finish).unwrap();
        let word = flight.said.lock().unwrap().wait();
        match word {
            Word::Encode => Ok(Encoded { embeddings: flight.values, timing: Timing::Host { compute: WHILE } }),
            Word::Refuse => Err(InputError::OutOfMemory { bytes: 1 }.into()),
            Word::Lose => Err(CudaError::Lost { cause: "the test said so".to_string() }.into()),
            Word::Panic => panic!("the test said so"),
        }
    }

    fn tile_embeddings_len(&self) -> usize {
        1
    }
}

struct Test {
    batcher: Batcher,
    calls: Receiver<Call>,
    flights: Receiver<Sender<Word>>,
    refusals: Arc<Mutex<usize>>,
    reports: Receiver<Report>,
}

type Answer = (Place, Receiver<Result<Reply, Failure>>);

impl Test {
    /// A batcher that serves, of four tiles a batch.
    fn new(devices: Devices) -> Self {
        let (send_call, calls) = mpsc::channel();
        let (send_flight, flights) = mpsc::channel();
        let (send_report, reports) = mpsc::channel();
        let refusals = Arc::<Mutex<usize>>::default();
        let gpus = Gpus { devices, calls: send_call, flights: send_flight, refusals: refusals.clone() };
        let limits =
            Limits { max_requests: 32, max_bytes: 1 << 30, preparers: 2, batch_tiles: 4, max_delay: Duration::ZERO };
        let observe = move |report: &Report| send_report.send(*report).unwrap_or_default();
        let batcher = Batcher::observed(gpus, limits, picture(99), observe).unwrap();
        let test = Self { batcher, calls, flights, refusals, reports };
        for device in 0..devices.count {
            test.submitted(device, 1).send(Word::Encode).unwrap();
            assert_eq!(test.call(), Call::Finish);
        }
        let begin = Instant::now();
        while test.batcher.phase() != Phase::Serving {
            assert!(begin.elapsed() < PATIENCE, "it never served");
            std::thread::yield_now();
        }
        test
    }

    fn submit(&self, tiles: usize, seed: u64) -> Answer {
        let place = self.batcher.admit(Instant::now() + PATIENCE).unwrap();
        let (sender, receiver) = mpsc::channel();
        place.submit(tiles, picture(seed), move |result| drop(sender.send(result)));
        (place, receiver)
    }

    fn call(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("nothing is called")
    }

    /// The next call, which gives so many requests to a device; the test's say in it.
    #[track_caller]
    fn submitted(&self, device: usize, requests: usize) -> Sender<Word> {
        assert_eq!(self.call(), Call::Submit { device, requests });
        self.flights.recv_timeout(PATIENCE).unwrap()
    }

    #[track_caller]
    fn assert_nothing_is_called(&self) {
        assert_eq!(self.calls.recv_timeout(WHILE).ok(), None);
    }
}

fn picture(seed: u64) -> Inputs {
    Inputs::Pictures(vec![Tiles { aspect_ratio: [1, 1], pixels: noise(tiny_config().tile_len(), seed) }])
}

#[track_caller]
fn assert_encoded((_place, receiver): &Answer, seed: u64) -> Reply {
    let reply = receiver.recv_timeout(PATIENCE).expect("no answer").unwrap();
    assert_eq!(reply[..], noise(1, seed)[..]);
    reply
}

#[track_caller]
fn assert_lost((_place, receiver): &Answer) {
    let answer = receiver.recv_timeout(PATIENCE).expect("no answer");
    assert!(matches!(answer, Err(Failure::Lost { .. })), "{answer:?}");
}

const TWO_SLOTS: Devices = Devices { count: 1, depth: 2 };

#[test]
fn a_full_batch_is_given_before_the_one_that_computes_is_done() {
    let test = Test::new(TWO_SLOTS);
    let first = test.submit(1, 1);
    let first_word = test.submitted(0, 1);
    let second = [2, 3].map(|seed| test.submit(2, seed));
    let second_word = test.submitted(0, 2);
    let third = test.submit(4, 4);
    test.assert_nothing_is_called();
    first_word.send(Word::Encode).unwrap();
    assert_eq!(test.call(), Call::Finish);
    let third_word = test.submitted(0, 1);
    assert_encoded(&first, 1);
    for word in [second_word, third_word] {
        word.send(Word::Encode).unwrap();
        assert_eq!(test.call(), Call::Finish);
    }
    for (answer, seed) in second.iter().zip(2..) {
        assert_eq!(assert_encoded(answer, seed).batch_requests, 2);
    }
    assert_encoded(&third, 4);
    let reports: Vec<_> = test.reports.try_iter().map(|r| (r.requests, r.tiles, r.output_tiles, r.ahead)).collect();
    assert_eq!(reports, [(1, 1, 1, false), (2, 4, 2, true), (1, 4, 1, true)]);
}

#[test]
fn one_that_is_not_full_waits_for_the_device_and_comes_before_the_answers() {
    let test = Test::new(TWO_SLOTS);
    let first = test.submit(1, 1);
    let first_word = test.submitted(0, 1);
    let second = [2, 3].map(|seed| test.submit(1, seed));
    test.assert_nothing_is_called();
    first_word.send(Word::Encode).unwrap();
    let second_word = test.submitted(0, 2);
    assert_eq!(test.call(), Call::Finish, "the device works while the host answers");
    assert_encoded(&first, 1);
    second_word.send(Word::Encode).unwrap();
    for (answer, seed) in second.iter().zip(2..) {
        assert_encoded(answer, seed);
    }
}

#[test]
fn each_device_has_batches_of_its_own() {
    let test = Test::new(Devices { count: 2, depth: 2 });
    let answers: Vec<Answer> = (0..4).map(|seed| test.submit(4, seed)).collect();
    let words: Vec<Sender<Word>> = [0, 1, 0, 1].map(|device| test.submitted(device, 1)).into();
    words[1].send(Word::Encode).unwrap();
    assert_eq!(test.call(), Call::Finish);
    assert_encoded(&answers[1], 1);
    let fifth = test.submit(4, 4);
    let fifth_word = test.submitted(1, 1);
    for word in [&words[3], &words[0], &words[2], &fifth_word] {
        word.send(Word::Encode).unwrap();
    }
    for (answer, seed) in answers.iter().zip(0..).filter(|(_, seed)| *seed != 1) {
        assert_encoded(answer, seed);
    }
    assert_encoded(&fifth, 4);
}

/// A batch of two requests under way in front of one of one request; their words.
fn two_under_way(test: &Test) -> ([Answer; 2], Sender<Word>, Answer, Sender<Word>) {
    let blocker = test.submit(4, 0);
    let blocker_word = test.submitted(0, 1);
    let pair = [1, 2].map(|seed| test.submit(2, seed));
    let pair_word = test.submitted(0, 2);
    blocker_word.send(Word::Encode).unwrap();
    assert_eq!(test.call(), Call::Finish);
    assert_encoded(&blocker, 0);
    let behind = test.submit(4, 3);
    let behind_word = test.submitted(0, 1);
    (pair, pair_word, behind, behind_word)
}

#[track_caller]
fn assert_refused((_place, receiver): &Answer) {
    let answer = receiver.recv_timeout(PATIENCE).expect("no answer");
    assert!(matches!(answer, Err(Failure::Failed(Error::Input(InputError::OutOfMemory { .. })))), "{answer:?}");
}

#[test]
fn a_fault_is_tried_one_by_one_beside_a_batch_that_goes_on() {
    let test = Test::new(TWO_SLOTS);
    let (pair, word, behind, behind_word) = two_under_way(&test);
    word.send(Word::Refuse).unwrap();
    assert_eq!(test.call(), Call::Finish);
    for word in [Word::Encode, Word::Refuse] {
        test.submitted(0, 1).send(word).unwrap();
        assert_eq!(test.call(), Call::Finish);
    }
    assert_encoded(&pair[0], 1);
    assert_refused(&pair[1]);
    behind_word.send(Word::Encode).unwrap();
    assert_encoded(&behind, 3);
}

#[test]
fn a_batch_that_cannot_begin_leaves_the_one_that_computes_alone() {
    let test = Test::new(TWO_SLOTS);
    let first = test.submit(1, 1);
    let first_word = test.submitted(0, 1);
    // The batch, and the first of its two requests.
    *test.refusals.lock().unwrap() = 2;
    let pair = [2, 3].map(|seed| test.submit(2, seed));
    assert_eq!(test.call(), Call::Submit { device: 0, requests: 2 });
    assert_eq!(test.call(), Call::Submit { device: 0, requests: 1 });
    assert_refused(&pair[0]);
    test.submitted(0, 1).send(Word::Encode).unwrap();
    assert_eq!(test.call(), Call::Finish);
    assert_encoded(&pair[1], 3);
    let third = test.submit(4, 4);
    let third_word = test.submitted(0, 1);
    for (word, answer, seed) in [(first_word, &first, 1), (third_word, &third, 4)] {
        word.send(Word::Encode).unwrap();
        assert_eq!(test.call(), Call::Finish);
        assert_encoded(answer, seed);
    }
}

#[test]
fn a_lost_encoder_answers_what_is_under_way_and_is_not_called_again() {
    for word in [Word::Lose, Word::Panic] {
        let test = Test::new(TWO_SLOTS);
        let (pair, pair_word, behind, _behind_word) = two_under_way(&test);
        let waiting = test.submit(1, 4);
        pair_word.send(word).unwrap();
        assert_eq!(test.call(), Call::Finish);
        for answer in [&pair[0], &pair[1], &behind, &waiting] {
            assert_lost(answer);
        }
        assert!(test.batcher.lost().is_some());
        assert!(test.calls.recv_timeout(PATIENCE).is_err(), "the thread has ended");
        drop((pair, behind, waiting));
        assert_eq!(test.batcher.occupancy(), Occupancy { announced: 0, admitted: 0, bytes: 0 });
    }
}

#[test]
fn the_time_of_a_batch_begins_when_the_one_before_has_ended() {
    let test = Test::new(TWO_SLOTS);
    assert_eq!(test.batcher.computing_for(), None);
    let begin = Instant::now();
    let first = test.submit(4, 1);
    let first_word = test.submitted(0, 1);
    let second = test.submit(4, 2);
    let second_word = test.submitted(0, 1);
    std::thread::sleep(2 * WHILE);
    assert!(test.batcher.computing_for().is_some_and(|time| time >= WHILE));
    let turned = Instant::now();
    first_word.send(Word::Encode).unwrap();
    assert_encoded(&first, 1);
    // The answer comes before the turn to the next is noted.
    while test.batcher.computing_for().is_some_and(|time| time > turned.elapsed()) {
        assert!(begin.elapsed() < PATIENCE, "the first one's time goes on");
    }
    assert!(test.batcher.computing_for().is_some());
    second_word.send(Word::Encode).unwrap();
    assert_encoded(&second, 2);
    while test.batcher.computing_for().is_some() {
        assert!(begin.elapsed() < PATIENCE, "nothing computes");
    }
}

#[test]
fn draining_and_dropping_wait_for_what_is_under_way() {
    for drops in [false, true] {
        let test = Test::new(TWO_SLOTS);
        let (pair, pair_word, behind, behind_word) = two_under_way(&test);
        let waiting = test.submit(1, 4);
        let Test { batcher, calls, flights, .. } = test;
        if drops {
            drop(batcher);
            assert_lost(&waiting);
        } else {
            batcher.drain();
        }
        pair_word.send(Word::Encode).unwrap();
        behind_word.send(Word::Encode).unwrap();
        assert_encoded(&pair[0], 1);
        assert_encoded(&pair[1], 2);
        assert_encoded(&behind, 3);
        if !drops {
            flights.recv_timeout(PATIENCE).unwrap().send(Word::Encode).unwrap();
            assert_encoded(&waiting, 4);
        }
        let ends = || calls.recv_timeout(PATIENCE).is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected);
        assert!((0..10).any(|_| ends()), "the thread goes on");
    }
}

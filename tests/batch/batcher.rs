//! Many callers, one encoder: each gets its own rows and its own faults, whoever shares its batch.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use tilesight::Error;
use tilesight::batch::{
    Batcher, Compute, Devices, Failure, Inputs, Limits, Occupancy, Phase, Place, Refusal, Reply, Wait,
};
use tilesight::encoder::{Encoded, Timing};
use tilesight::error::{CudaError, InputError};
use tilesight::image::Tiles;

use crate::golden_data::golden;
use crate::noise::noise;
use crate::on_cpu::on_cpu;
use crate::tiny_config::tiny_config;

const PATIENCE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits { max_requests: 8, max_bytes: 1 << 30, preparers: 2, batch_tiles: 4, max_delay: Duration::ZERO }
}

fn picture(aspect_ratio: [usize; 2], seed: u64) -> Inputs {
    let pixels = noise(aspect_ratio[0] * aspect_ratio[1] * tiny_config().tile_len(), seed);
    Inputs::Pictures(vec![Tiles { aspect_ratio, pixels }])
}

#[track_caller]
fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn started(encoder: impl Compute, limits: Limits) -> Batcher {
    let batcher = Batcher::start(encoder, limits, picture([1, 1], 99)).unwrap();
    wait_until("the first encode", || batcher.phase() != Phase::Starting);
    batcher
}

fn encode(encoder: &mut impl Compute, requests: &[Inputs]) -> Vec<f32> {
    let submission = Compute::submit(encoder, 0, requests).unwrap();
    Compute::finish(encoder, submission).unwrap().embeddings
}

type Answer = Receiver<Result<Reply, Failure>>;

fn submit(batcher: &Batcher, tiles: usize, inputs: Inputs) -> (Place, Answer) {
    let place = batcher.admit(Instant::now() + PATIENCE).unwrap();
    let (sender, receiver) = mpsc::channel();
    place.submit(tiles, inputs, move |result| drop(sender.send(result)));
    (place, receiver)
}

fn answer(receiver: &Answer) -> Result<Reply, Failure> {
    receiver.recv_timeout(PATIENCE).expect("no answer")
}

/// An encoder that does what the test lets it: each call waits for a word, and each tile becomes one value, its first.
struct Puppet {
    calls: Sender<usize>,
    words: Receiver<Word>,
}

enum Word {
    Encode,
    /// Of the requests in a batch, the first gets no numbers.
    Overflow,
    Refuse,
    Lose,
    Panic,
}

impl Compute for Puppet {
    type Submission = Vec<f32>;

    fn devices(&self) -> Devices {
        Devices::ONE
    }

    fn submit(&mut self, _: usize, requests: &[Inputs]) -> tilesight::Result<Vec<f32>> {
        self.calls.send(requests.len()).unwrap();
        let first = |inputs: &Inputs| match inputs {
            Inputs::Pictures(pictures) => vec![pictures[0].pixels[0]; inputs.num_output_tiles()],
            Inputs::Pixels { .. } => unreachable!("these tests have pictures only"),
        };
        match self.words.recv().unwrap() {
            Word::Encode => Ok(requests.iter().flat_map(first).collect()),
            Word::Overflow => {
                let mut embeddings: Vec<f32> = requests.iter().flat_map(first).collect();
                embeddings[0] = f32::NAN;
                Ok(embeddings)
            }
            Word::Refuse => Err(InputError::OutOfMemory { bytes: 1 }.into()),
            Word::Lose => Err(CudaError::Lost { cause: "the test said so".to_string() }.into()),
            Word::Panic => panic!("the test said so"),
        }
    }

    fn wait(_: &Vec<f32>) -> Option<Wait> {
        None
    }

    fn finish(&mut self, embeddings: Vec<f32>) -> tilesight::Result<Encoded> {
        Ok(Encoded { embeddings, timing: Timing::Host { compute: Duration::ZERO } })
    }

    fn tile_embeddings_len(&self) -> usize {
        1
    }
}

/// A batcher around a puppet, the puppet's words, and the sizes of the batches it is called with.
fn puppet(limits: Limits) -> (Batcher, Sender<Word>, Receiver<usize>) {
    let (calls, called) = mpsc::channel();
    let (say, words) = mpsc::channel();
    say.send(Word::Encode).unwrap();
    let batcher = started(Puppet { calls, words }, limits);
    assert_eq!(called.recv().unwrap(), 1, "the first encode");
    (batcher, say, called)
}

#[test]
fn everybody_gets_the_rows_they_would_get_alone() {
    let config = tiny_config();
    let build = || on_cpu().model(golden("tiny")).max_batch_tiles(4).build().unwrap();
    let mut requests = vec![picture([1, 1], 1), picture([2, 2], 2), picture([1, 3], 3), picture([2, 1], 4)];
    requests.push(Inputs::Pixels {
        values: noise(2 * 2 * config.tile_len(), 5),
        shape: [2, 2, 3, config.tile_size, config.tile_size],
        aspect_ratio: Some(vec![[1, 2], [1, 1]]),
    });
    let mut alone = build();
    let expected: Vec<Vec<f32>> =
        requests.iter().map(|request| encode(&mut alone, std::slice::from_ref(request))).collect();
    let batcher = started(build(), limits());
    let answers: Vec<_> = requests.into_iter().map(|r| submit(&batcher, r.num_output_tiles(), r)).collect();
    for ((_place, receiver), expected) in answers.iter().zip(expected) {
        assert!(answer(receiver).unwrap()[..] == expected[..]);
    }
    drop(answers);
    assert_eq!(batcher.occupancy(), Occupancy { announced: 0, admitted: 0, bytes: 0 });
}

#[test]
fn what_waits_while_a_batch_computes_goes_together_next() {
    let (batcher, say, called) = puppet(limits());
    let first = submit(&batcher, 1, picture([1, 1], 1));
    assert_eq!(called.recv_timeout(PATIENCE).unwrap(), 1);
    let waiting: Vec<_> = (2..5).map(|seed| submit(&batcher, 1, picture([1, 1], seed))).collect();
    say.send(Word::Encode).unwrap();
    assert_eq!(called.recv_timeout(PATIENCE).unwrap(), 3, "no timer, and nobody waits in vain");
    say.send(Word::Encode).unwrap();
    assert_eq!(answer(&first.1).unwrap().batch_requests, 1);
    for ((_place, receiver), seed) in waiting.iter().zip(2..) {
        let reply = answer(receiver).unwrap();
        assert_eq!(reply[..], noise(1, seed)[..]);
        assert_eq!(reply.batch_requests, 3);
    }
}

#[test]
fn a_fault_is_its_owners_alone() {
    let (batcher, say, called) = puppet(limits());
    let blocker = submit(&batcher, 1, picture([1, 1], 0));
    called.recv_timeout(PATIENCE).unwrap();
    let [good, bad] = [1, 2].map(|seed| submit(&batcher, 1, picture([1, 1], seed)));
    for word in [Word::Encode, Word::Refuse, Word::Encode, Word::Refuse, Word::Encode] {
        say.send(word).unwrap();
    }
    answer(&blocker.1).unwrap();
    assert_eq!(answer(&good.1).unwrap()[..], noise(1, 1)[..]);
    let Err(Failure::Failed(Error::Input(InputError::OutOfMemory { .. }))) = answer(&bad.1) else { panic!() };
    let next = submit(&batcher, 1, picture([1, 1], 3));
    assert_eq!(answer(&next.1).unwrap()[..], noise(1, 3)[..], "and life goes on");
    let sizes: Vec<usize> = called.try_iter().collect();
    assert_eq!(sizes, [2, 1, 1, 1], "together, then each alone");
}

#[test]
fn a_lost_encoder_answers_everybody_and_takes_no_more() {
    for word in [Word::Lose, Word::Panic] {
        let (batcher, say, called) = puppet(limits());
        let computing = submit(&batcher, 1, picture([1, 1], 1));
        called.recv_timeout(PATIENCE).unwrap();
        let waiting = submit(&batcher, 1, picture([1, 1], 2));
        let preparing = batcher.admit(Instant::now() + PATIENCE).unwrap();
        say.send(word).unwrap();
        for (_place, receiver) in [&computing, &waiting] {
            assert!(matches!(answer(receiver), Err(Failure::Lost { .. })));
        }
        let (sender, receiver) = mpsc::channel();
        preparing.submit(1, picture([1, 1], 3), move |result| drop(sender.send(result)));
        assert!(matches!(answer(&receiver), Err(Failure::Lost { .. })));
        assert!(batcher.lost().is_some());
        let refused = batcher.admit(Instant::now() + PATIENCE).err();
        assert_eq!(refused, Some(Refusal::Closed { phase: Phase::Stopped }));
    }
}

#[test]
fn an_encoder_that_cannot_encode_is_never_ready() {
    let (calls, _called) = mpsc::channel();
    let (say, words) = mpsc::channel();
    let batcher = Batcher::start(Puppet { calls, words }, limits(), picture([1, 1], 0)).unwrap();
    assert_eq!(batcher.phase(), Phase::Starting);
    assert!(batcher.admit(Instant::now() + PATIENCE).is_err());
    say.send(Word::Refuse).unwrap();
    wait_until("the loss", || batcher.lost().is_some());
    assert_eq!(batcher.phase(), Phase::Stopped);
}

#[test]
fn who_waits_too_long_or_leaves_is_not_computed() {
    let (batcher, say, called) = puppet(limits());
    let blocker = submit(&batcher, 1, picture([1, 1], 0));
    called.recv_timeout(PATIENCE).unwrap();
    let late = batcher.admit(Instant::now()).unwrap();
    let (sender, expired) = mpsc::channel();
    late.submit(1, picture([1, 1], 1), move |result| drop(sender.send(result)));
    let (place, gone) = submit(&batcher, 1, picture([1, 1], 2));
    drop(place);
    let stays = submit(&batcher, 1, picture([1, 1], 3));
    say.send(Word::Encode).unwrap();
    say.send(Word::Encode).unwrap();
    answer(&blocker.1).unwrap();
    assert!(matches!(answer(&expired), Err(Failure::Expired)));
    assert_eq!(answer(&stays.1).unwrap().batch_requests, 1);
    assert!(gone.recv().is_err(), "nobody is there to be answered");
}

#[test]
fn draining_finishes_what_is_there_and_takes_no_more() {
    let (batcher, say, called) = puppet(limits());
    let blocker = submit(&batcher, 1, picture([1, 1], 0));
    called.recv_timeout(PATIENCE).unwrap();
    let waiting = submit(&batcher, 1, picture([1, 1], 1));
    batcher.drain();
    let refused = batcher.admit(Instant::now() + PATIENCE).err();
    assert_eq!(refused, Some(Refusal::Closed { phase: Phase::Draining }));
    say.send(Word::Encode).unwrap();
    say.send(Word::Encode).unwrap();
    answer(&blocker.1).unwrap();
    answer(&waiting.1).unwrap();
    assert!(batcher.lost().is_none());
}

#[test]
fn a_batch_that_hangs_can_be_seen_and_given_up() {
    let (batcher, _say, called) = puppet(limits());
    let _hangs = submit(&batcher, 1, picture([1, 1], 0));
    called.recv_timeout(PATIENCE).unwrap();
    let waiting = submit(&batcher, 1, picture([1, 1], 1));
    wait_until("time", || batcher.computing_for().is_some_and(|time| time > Duration::from_millis(5)));
    batcher.lose("it hangs");
    assert!(matches!(answer(&waiting.1), Err(Failure::Lost { reason }) if reason == "it hangs"));
}

#[test]
fn embeddings_that_are_no_numbers_are_one_requests_affair() {
    let (batcher, say, called) = puppet(limits());
    // The first keeps the encoder busy while the two that are a batch come.
    let first = submit(&batcher, 4, picture([1, 1], 1));
    assert_eq!(called.recv().unwrap(), 1);
    let [bad, good] = [2, 3].map(|seed| submit(&batcher, 1, picture([1, 1], seed)));
    say.send(Word::Encode).unwrap();
    say.send(Word::Overflow).unwrap();
    answer(&first.1).unwrap();
    assert!(matches!(answer(&bad.1), Err(Failure::Failed(Error::NotFinite { index: 0 }))));
    answer(&good.1).unwrap();
    assert_eq!(called.try_iter().collect::<Vec<_>>(), [2], "nothing is computed twice");
}

#[test]
fn an_encoder_whose_first_embeddings_are_no_numbers_never_serves() {
    let (calls, _called) = mpsc::channel();
    let (say, words) = mpsc::channel();
    say.send(Word::Overflow).unwrap();
    let batcher = Batcher::start(Puppet { calls, words }, limits(), picture([1, 1], 0)).unwrap();
    while batcher.lost().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(batcher.lost().unwrap().contains("not finite"), "{:?}", batcher.lost());
}

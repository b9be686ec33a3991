//! The queue under more load than there is capacity, in time that is counted and not waited for: what is computed is of use.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tilesight::batch::{Devices, Limits, Next, Queue, Refusal, Ticket};

const BATCH_TILES: usize = 16;

/// Seconds that a batch takes, and each of its tiles.
const BATCH: f64 = 0.020;
const TILE: f64 = 0.010;

/// A request, and when it arrived.
type Arrived = (Ticket, f64);

/// Numbers between 0 and 1 that look drawn by chance.
struct Chance(u64);

impl Chance {
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What is asked of a queue.
#[derive(Clone, Copy)]
struct Load {
    /// Requests of one tile that arrive in a second.
    rate: f64,
    /// Seconds that each has.
    deadline: f64,
    /// Seconds that each is worked on before it is submitted.
    preparation: f64,
    /// By how much of its time a batch may take longer or shorter.
    noise: f64,
    seconds: f64,
}

#[derive(Debug, Default)]
struct Outcome {
    in_time: usize,
    late: usize,
    refused: usize,
    expired: usize,
}

/// Plays a load. Returns what happened after the first second.
fn play(load: Load) -> Outcome {
    let limits = Limits {
        max_requests: 256,
        max_bytes: u64::MAX,
        preparers: 2,
        batch_tiles: BATCH_TILES,
        max_delay: Duration::ZERO,
    };
    let mut queue = Queue::new(limits, Devices::ONE);
    queue.open();
    let (begin, mut chance) = (Instant::now(), Chance(7));
    let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
    let (mut outcome, mut now) = (Outcome::default(), 0.0);
    let mut arrival: f64 = 0.0;
    let mut waiting: VecDeque<Arrived> = VecDeque::new();
    let mut preparers: [Option<(f64, Ticket, f64)>; 2] = [None; 2];
    let mut device: Option<(f64, f64, Vec<Arrived>)> = None;
    while now < load.seconds {
        // The next thing that happens.
        let prepared = preparers.iter().flatten().map(|(end, ..)| *end).fold(f64::INFINITY, f64::min);
        let computed = device.as_ref().map_or(f64::INFINITY, |(_, end, _)| *end);
        now = arrival.min(prepared).min(computed);
        if now == arrival {
            let admitted = queue.announce(at(now + load.deadline), at(now)).and_then(|ticket| {
                queue.admit(ticket, at(now))?;
                Ok(ticket)
            });
            match admitted {
                Ok(ticket) => waiting.push_back((ticket, now)),
                Err(Refusal::Overloaded { .. } | Refusal::Full { .. }) => outcome.refused += usize::from(now > 1.0),
                Err(other) => panic!("{other}"),
            }
            arrival -= (1.0 - chance.draw()).ln() / load.rate;
        } else if now == computed {
            let (start, _, requests) = device.take().unwrap();
            queue.computed(0);
            queue.observe_batch(requests.len(), Duration::from_secs_f64(now - start));
            assert_eq!(queue.next(at(now)), Next::Collect { device: 0 });
            for (ticket, arrived) in requests {
                queue.finish(ticket);
                queue.release(ticket);
                let count = if now <= arrived + load.deadline { &mut outcome.in_time } else { &mut outcome.late };
                *count += usize::from(now > 1.0);
            }
        } else {
            let preparer = preparers.iter_mut().find(|slot| slot.is_some_and(|(end, ..)| end == now)).unwrap();
            let (_, ticket, arrived) = preparer.take().unwrap();
            queue.observe_preparation(Duration::from_secs_f64(load.preparation));
            if queue.submit(ticket, 1, (ticket, arrived), at(now)).is_err() {
                outcome.refused += usize::from(now > 1.0);
                queue.release(ticket);
            }
        }
        for slot in &mut preparers {
            if slot.is_none()
                && let Some((ticket, arrived)) = waiting.pop_front()
            {
                *slot = Some((now + load.preparation, ticket, arrived));
            }
        }
        for taken in queue.expire(at(now)) {
            queue.finish(taken.ticket);
            queue.release(taken.ticket);
            outcome.expired += usize::from(now > 1.0);
        }
        if device.is_none()
            && let Next::Batch { requests, .. } = queue.next(at(now))
        {
            let noise = 1.0 + load.noise * (2.0 * chance.draw() - 1.0);
            let end = now + (BATCH + TILE * requests.len() as f64) * noise;
            device = Some((now, end, requests.into_iter().map(|taken| taken.work).collect()));
        }
    }
    outcome
}

/// Requests a second that full batches compute.
const CAPACITY: f64 = BATCH_TILES as f64 / (BATCH + TILE * BATCH_TILES as f64);

#[track_caller]
fn assert_goodput(load: Load, capacity: f64) {
    let outcome = play(load);
    let goodput = outcome.in_time as f64 / (load.seconds - 1.0) / capacity;
    assert!(goodput >= 0.85, "{:.0} % of capacity in time: {outcome:?}", 100.0 * goodput);
    let lost = (outcome.late + outcome.expired) as f64 / outcome.in_time as f64;
    assert!(lost < 0.05, "{:.0} % were let in and came to nothing: {outcome:?}", 100.0 * lost);
}

#[test]
fn goodput_stays_at_capacity_where_batches_are_the_limit() {
    for deadline in [1.0, 3.0, 30.0] {
        for factor in [1.2, 2.5, 10.0] {
            let load = Load {
                rate: factor * CAPACITY,
                deadline,
                preparation: 0.001,
                noise: 0.0,
                seconds: 4.0 + 3.0 * deadline,
            };
            assert_goodput(load, CAPACITY);
        }
    }
}

#[test]
fn goodput_stays_at_capacity_where_decoding_is_the_limit() {
    let preparation = 0.050;
    for deadline in [1.0, 3.0] {
        let rate = 2.5 * 2.0 / preparation;
        assert_goodput(Load { rate, deadline, preparation, noise: 0.0, seconds: 20.0 }, 2.0 / preparation);
    }
}

#[test]
fn times_that_vary_cost_little() {
    for deadline in [1.0, 3.0] {
        let load = Load { rate: 2.5 * CAPACITY, deadline, preparation: 0.001, noise: 0.5, seconds: 20.0 };
        assert_goodput(load, CAPACITY);
    }
}

#[test]
fn below_capacity_nobody_is_refused() {
    let outcome = play(Load { rate: 0.7 * CAPACITY, deadline: 3.0, preparation: 0.001, noise: 0.2, seconds: 30.0 });
    assert_eq!((outcome.refused, outcome.expired, outcome.late), (0, 0, 0), "{outcome:?}");
    assert!(outcome.in_time > 1000, "{outcome:?}");
}

fn open() -> (Queue<u32>, Instant) {
    let limits =
        Limits { max_requests: 4, max_bytes: 100, preparers: 1, batch_tiles: BATCH_TILES, max_delay: Duration::ZERO };
    let mut queue = Queue::new(limits, Devices::ONE);
    queue.open();
    (queue, Instant::now())
}

#[test]
fn announced_requests_take_nobodys_place() {
    let (mut queue, now) = open();
    let deadline = now + Duration::from_secs(1);
    let announced: Vec<Ticket> = (0..100).map(|_| queue.announce(deadline, now).unwrap()).collect();
    assert_eq!((queue.num_requests(), queue.num_announced()), (0, 100));
    for ticket in &announced[..4] {
        queue.admit(*ticket, now).unwrap();
    }
    assert!(matches!(queue.admit(announced[4], now), Err(Refusal::Full { requests: 4, .. })));
    assert!(matches!(queue.announce(deadline, now), Err(Refusal::Full { .. })));
    queue.hold(announced[5], 60).unwrap();
    queue.release(announced[5]);
    assert_eq!((queue.num_announced(), queue.bytes()), (95, 0));
}

#[test]
fn one_slow_batch_does_not_close_the_queue() {
    let (mut queue, now) = open();
    queue.observe_batch(1, Duration::from_secs(100));
    let deadline = now + Duration::from_secs(1);
    let first = queue.announce(deadline, now).unwrap();
    queue.admit(first, now).unwrap();
    queue.submit(first, 1, 0, now).unwrap();
    let refused = queue.announce(deadline, now);
    assert!(matches!(refused, Err(Refusal::Overloaded { .. })), "{refused:?}");
    assert_eq!(queue.expire(now), [], "there is nothing else to compute");
    assert!(matches!(queue.next(now), Next::Batch { .. }));
}

#[test]
fn a_request_that_would_be_late_gives_way_to_those_that_would_not() {
    let (mut queue, now) = open();
    let admit = |queue: &mut Queue<u32>, millis, work| {
        let ticket = queue.announce(now + Duration::from_millis(millis), now).unwrap();
        queue.admit(ticket, now).unwrap();
        queue.submit(ticket, 1, work, now).unwrap();
    };
    admit(&mut queue, 50, 0);
    admit(&mut queue, 500, 1);
    queue.observe_batch(1, Duration::from_millis(100));
    let late: Vec<u32> = queue.expire(now).into_iter().map(|taken| taken.work).collect();
    assert_eq!(late, [0], "its batch would end after its deadline");
}

//! More requests than there is capacity for: those that are let in are answered in time, and as many as ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::server::{Response, Server, picture};

/// Seconds of each run; more by TILESIGHT_LOAD_SECONDS.
fn seconds() -> f64 {
    std::env::var("TILESIGHT_LOAD_SECONDS").map_or(3.0, |seconds| seconds.parse().unwrap())
}

fn encode(server: &Server, file: &[u8], deadline: Duration) -> Response {
    let millis = deadline.as_millis().to_string();
    server.post("/v1/encode", &[("Tilesight-Timeout-Ms", &millis), ("Connection", "close")], file)
}

/// Answers a second to clients that ask again as soon as they are answered.
fn capacity(server: &Server, file: &[u8]) -> f64 {
    let (answers, begin) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while begin.elapsed().as_secs_f64() < seconds() {
                    assert_eq!(encode(server, file, Duration::from_secs(60)).status, 200);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    answers.into_inner() as f64 / begin.elapsed().as_secs_f64()
}

/// Answers in time a second where so many requests arrive in a second, however many are under way.
fn goodput(server: &Server, file: &[u8], rate: f64, deadline: Duration) -> f64 {
    let in_time = AtomicUsize::new(0);
    let seconds = seconds() + deadline.as_secs_f64();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..(rate * seconds) as usize {
            let due = begin + Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let in_time = &in_time;
            scope.spawn(move || {
                let response = encode(server, file, deadline);
                assert!([200, 429, 504].contains(&response.status), "{}: {}", response.status, response.text());
                if response.status == 200 && due.elapsed() <= deadline {
                    in_time.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    in_time.into_inner() as f64 / begin.elapsed().as_secs_f64()
}

#[test]
fn answers_in_time_stay_at_capacity() {
    // The demo model, which takes longer than its clients do.
    let server = Server::spawn(&["--device", "cpu"], &[]);
    server.wait_until_ready();
    let file = picture("image0.png");
    for deadline in [1, 3].map(Duration::from_secs) {
        // Other work on the machine takes a run's capacity away from it between its two parts: one run of three is undisturbed.
        let shares = std::iter::repeat_with(|| {
            let capacity = capacity(&server, &file);
            let goodput = goodput(&server, &file, 2.5 * capacity, deadline);
            println!(
                "capacity {capacity:.1}/s, in time {goodput:.1}/s of {:.1}/s, deadline {deadline:?}",
                2.5 * capacity
            );
            goodput / capacity
        });
        let best = shares.take(3).find(|share| *share >= 0.85);
        assert!(best.is_some(), "with a deadline of {deadline:?} less than 85 % of capacity was in time");
    }
}

//! Closed and open loops of queries.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use indicatif::ProgressBar;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::arrivals::Poisson;
use super::super::samples::Sample;
use super::super::scenario::{Until, show};
use super::protocol::{Answer, Failure, Query, Target};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// How long a query may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Reasons of failures that are kept apart.
const MAX_REASONS: usize = 10;

/// A server, and what it gave for each query at first.
pub(super) struct Round {
    target: Target,
    queries: Vec<Query>,
    first: Vec<Bytes>,
}

/// What came of a loop.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) samples: Vec<Sample>,
    /// Seconds from when a query was due to the first byte of its answer.
    pub(super) first_bytes: Vec<f64>,
    /// Of the embeddings.
    pub(super) bytes: usize,
    /// From the first query to the last answer.
    pub(super) seconds: f64,
    pub(super) refused: usize,
    /// Answers whose bits are not those of the first.
    pub(super) differing: usize,
    /// How often what went wrong.
    pub(super) failures: BTreeMap<String, usize>,
}

impl Outcome {
    pub(super) fn num_failed(&self) -> usize {
        self.failures.values().sum()
    }

    fn note(&mut self, Event { number, due, result }: Event, begin: Instant, first: &[Bytes]) {
        let seconds = |at: Instant| at.duration_since(begin).as_secs_f64();
        match result {
            Ok(Answer { first: first_byte, end, embeddings, tiles, stages }) => {
                let (start, end) = (seconds(due), seconds(end));
                self.samples.push(Sample { start, end, images: 1, tiles, flops: 0, stages });
                self.first_bytes.push(seconds(first_byte) - start);
                self.bytes += embeddings.len();
                self.seconds = self.seconds.max(end);
                if embeddings != first[number] {
                    self.differing += 1;
                }
            }
            Err(Failure::Refused) => self.refused += 1,
            Err(Failure::Failed(reason)) => {
                let is_full = self.failures.len() >= MAX_REASONS && !self.failures.contains_key(&reason);
                let reason = if is_full { "other reasons".to_string() } else { reason };
                *self.failures.entry(reason).or_insert(0) += 1;
            }
        }
    }
}

/// A query that has ended.
struct Event {
    /// The query's place among all.
    number: usize,
    due: Instant,
    result: std::result::Result<Answer, Failure>,
}

impl Round {
    /// Sends each query once.
    ///
    /// # Errors
    /// [`Error::Io`] at the address, with what the server said.
    pub(super) fn first(target: Target, queries: Vec<Query>, runtime: &Runtime, url: &str) -> Result<Self> {
        let mut first = Vec::with_capacity(queries.len());
        for query in &queries {
            let reason = match runtime.block_on(target.send(query)) {
                Ok(answer) => {
                    first.push(answer.embeddings);
                    continue;
                }
                Err(Failure::Refused) => "the server is full before anything was asked of it".to_string(),
                Err(Failure::Failed(reason)) => format!("{}: {reason}", query.name),
            };
            return Err(Error::io(Path::new(url))(std::io::Error::other(reason)));
        }
        Ok(Self { target, queries, first })
    }

    /// Of what came first.
    pub(super) fn checksum(&self) -> Digest {
        Digest::of_all(&self.first.iter().map(|bytes| Digest::of_bytes(bytes)).collect::<Vec<_>>())
    }

    /// So many clients, each with one query at a time.
    pub(super) fn closed(&self, clients: usize, until: Until, runtime: &Runtime, bar: &ProgressBar) -> Outcome {
        let (events, received) = unbounded_channel();
        let (begin, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..clients {
            let (target, queries, events, next) =
                (self.target.clone(), self.queries.clone(), events.clone(), next.clone());
            runtime.spawn(async move {
                while !until.is_over(begin.elapsed(), next.load(Ordering::Relaxed)) {
                    let number = next.fetch_add(1, Ordering::Relaxed) % queries.len();
                    let due = Instant::now();
                    let result = patiently(&target, &queries[number]).await;
                    // A server that has no room is not asked again at once.
                    let pause = match &result {
                        Ok(_) => Duration::ZERO,
                        Err(_) => Duration::from_millis(50),
                    };
                    if events.send(Event { number, due, result }).is_err() {
                        break;
                    }
                    tokio::time::sleep(pause).await;
                }
            });
        }
        drop(events);
        self.collect(received, begin, until, runtime, bar)
    }

    /// Queries at moments of chance, whatever became of the ones before.
    pub(super) fn open(&self, rate: f64, seed: u64, until: Until, runtime: &Runtime, bar: &ProgressBar) -> Outcome {
        let (events, received) = unbounded_channel();
        let begin = Instant::now();
        let (target, queries) = (self.target.clone(), self.queries.clone());
        runtime.spawn(async move {
            for (number, moment) in Poisson::new(rate, seed).enumerate() {
                if until.is_over(moment, number) {
                    break;
                }
                let due = begin + moment;
                tokio::time::sleep_until(due.into()).await;
                let number = number % queries.len();
                let (target, query, events) = (target.clone(), queries[number].clone(), events.clone());
                tokio::spawn(send_one(target, query, number, due, events));
            }
        });
        self.collect(received, begin, until, runtime, bar)
    }

    fn collect(
        &self,
        mut received: UnboundedReceiver<Event>,
        begin: Instant,
        until: Until,
        runtime: &Runtime,
        bar: &ProgressBar,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        runtime.block_on(async {
            while let Some(event) = received.recv().await {
                outcome.note(event, begin, &self.first);
                show(bar, until, begin.elapsed(), outcome.samples.len());
            }
        });
        outcome
    }
}

async fn send_one(target: Target, query: Query, number: usize, due: Instant, events: UnboundedSender<Event>) {
    let result = patiently(&target, &query).await;
    // Whoever counts them stays until all have ended.
    let _ = events.send(Event { number, due, result });
}

async fn patiently(target: &Target, query: &Query) -> std::result::Result<Answer, Failure> {
    let late = |_| Err(Failure::Failed(format!("no answer within {} s", PATIENCE.as_secs())));
    tokio::time::timeout(PATIENCE, target.send(query)).await.unwrap_or_else(late)
}

//! What the queue in front of an encoder costs: requests through it to an encoder that takes no time, one after another and
//! many at once.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tilesight::Result;
use tilesight::batch::{Batcher, Compute, Devices, Inputs, Limits, Phase, Wait};
use tilesight::encoder::{Encoded, Timing};
use tilesight::image::Tiles;

/// Gives one number for each tile, at once.
struct Immediate;

impl Compute for Immediate {
    type Submission = usize;

    fn devices(&self) -> Devices {
        Devices::ONE
    }

    fn submit(&mut self, _: usize, requests: &[Inputs]) -> Result<usize> {
        Ok(requests.iter().map(Inputs::num_output_tiles).sum())
    }

    fn wait(_: &usize) -> Option<Wait> {
        None
    }

    fn finish(&mut self, tiles: usize) -> Result<Encoded> {
        Ok(Encoded { embeddings: vec![0.0; tiles], timing: Timing::Host { compute: Duration::ZERO } })
    }

    fn tile_embeddings_len(&self) -> usize {
        1
    }
}

fn tile() -> Inputs {
    Inputs::Pictures(vec![Tiles { aspect_ratio: [1, 1], pixels: vec![0.5; 3] }])
}

fn batcher() -> Batcher {
    let limits =
        Limits { max_requests: 4096, max_bytes: u64::MAX, preparers: 2, batch_tiles: 8, max_delay: Duration::ZERO };
    let batcher = Batcher::start(Immediate, limits, tile()).unwrap();
    while batcher.phase() == Phase::Starting {
        std::thread::yield_now();
    }
    batcher
}

fn requests(criterion: &mut Criterion) {
    let batcher = batcher();
    let mut group = criterion.benchmark_group("batcher");
    for at_once in [1u64, 8, 512] {
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(format!("{at_once} requests at once"), |bencher| {
            bencher.iter(|| {
                let (sender, answers) = channel();
                let places: Vec<_> = (0..at_once)
                    .map(|_| {
                        let place = batcher.admit(Instant::now() + Duration::from_secs(60)).unwrap();
                        let sender = sender.clone();
                        place.submit(1, tile(), move |reply| sender.send(reply.unwrap().len()).unwrap());
                        place
                    })
                    .collect();
                drop(sender);
                assert_eq!(answers.into_iter().sum::<usize>(), places.len());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);

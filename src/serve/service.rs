//! What all protocols share: a request's way from its admission to its embeddings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use tokio::sync::{Semaphore, oneshot, watch};

use super::Options;
use super::deadline;
use super::metrics::{Metrics, Stage};
use super::refused::Refused;
use super::statistics::{Account, Statistics};
use crate::batch::{Batcher, Failure, Inputs, Place, Reply};
use crate::config::EncoderConfig;
use crate::encoder::Encoder;
use crate::image::{Image, Limits as ImageLimits, Preprocessor};
use crate::plan::Semantics;

/// Aspect ratios whose computed tiles are counted ahead; a picture with more tiles counts its own.
const MAX_COUNTED_TILES: usize = 64;

/// The model, as its clients see it.
pub(super) struct Model {
    pub(super) config: EncoderConfig,
    pub(super) semantics: Semantics,
    pub(super) computed_in: crate::Dtype,
    /// None where the model's pixels have not three channels.
    pub(super) preprocessor: Option<Preprocessor>,
    computed_tiles: BTreeMap<[usize; 2], usize>,
}

impl Model {
    pub(super) fn of(encoder: &mut Encoder) -> Self {
        let config = encoder.config().clone();
        let most = config.max_num_tiles.min(MAX_COUNTED_TILES);
        let ratios = (1..=most).flat_map(|down| (1..=most / down).map(move |across| [down, across]));
        let count = |ratio| Some((ratio, encoder.num_computed_tiles(ratio).ok()?));
        Self {
            computed_tiles: ratios.filter_map(count).collect(),
            config,
            semantics: encoder.semantics(),
            computed_in: encoder.precision().activations,
            preprocessor: encoder.preprocessor().ok().cloned(),
        }
    }

    /// Bytes that a tile takes from its pixels to its answer, in f32.
    fn tile_bytes(&self) -> u64 {
        4 * (self.config.tile_len() + self.config.num_tokens() * self.config.decoder_embed_dim) as u64
    }
}

/// The server's state.
pub(super) struct Service {
    pub(super) batcher: Batcher,
    pub(super) model: Model,
    pub(super) options: Options,
    pub(super) metrics: Metrics,
    pub(super) statistics: Arc<Statistics>,
    image_slots: Arc<Semaphore>,
    stopped: watch::Sender<Option<String>>,
}

/// What a request asked for, encoded.
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// Rows and width.
    pub(super) embeddings_shape: [usize; 2],
    /// Tiles of each image whose rows are there.
    pub(super) num_tiles: Vec<i64>,
    pub(super) aspect_ratios: Vec<[i64; 2]>,
    pub(super) timing: Timing,
    account: Account,
}

impl Answer {
    /// The response is made.
    pub(super) fn succeeded(self) {
        self.account.succeed(&self.timing, &self.reply);
    }
}

/// Where a request's time went.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Timing {
    pub(super) receive: Duration,
    pub(super) prepare: Duration,
    pub(super) queue: Duration,
    pub(super) encode: Duration,
}

impl Timing {
    /// The value of a `Server-Timing` header, in milliseconds.
    pub(super) fn header(&self) -> String {
        let stages =
            [("receive", self.receive), ("prepare", self.prepare), ("queue", self.queue), ("encode", self.encode)];
        stages.map(|(name, time)| format!("{name};dur={:.3}", time.as_secs_f64() * 1e3)).join(", ")
    }
}

/// One request that has been let in.
pub(super) struct Visit<'a> {
    service: &'a Service,
    pub(super) place: Arc<Place>,
    pub(super) deadline: Instant,
    account: Account,
    timing: Timing,
}

impl Service {
    pub(super) fn new(batcher: Batcher, model: Model, options: Options) -> Self {
        let image_slots = Arc::new(Semaphore::new(options.image_threads.max(1)));
        let (stopped, _) = watch::channel(None);
        let (metrics, statistics) = <_>::default();
        Self { batcher, model, options, metrics, statistics, image_slots, stopped }
    }

    /// Lets a request in, or refuses it before any of its body is read.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Visit<'_>, Refused> {
        let account = Account::open(&self.statistics);
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(Refused::malformed(format!(
                "bodies are taken as they are, found Content-Encoding {encoding:?}"
            )));
        }
        let timeout = deadline::asked(headers)?.map_or(self.options.timeout, |asked| asked.min(self.options.timeout));
        let deadline = Instant::now() + timeout;
        let place = Arc::new(self.batcher.admit(deadline)?);
        Ok(Visit { service: self, place, deadline, account, timing: Timing::default() })
    }

    /// Answers everybody who waits, the batch that is being computed included.
    pub(super) fn stop(&self, reason: &str) {
        self.batcher.lose(reason);
        self.stopped.send_replace(Some(reason.to_string()));
    }
}

impl Visit<'_> {
    /// The body is here.
    pub(super) fn received(&mut self) {
        self.timing.receive = self.account.elapsed();
    }

    /// Encodes pictures, given as files.
    pub(super) async fn pictures(self, files: Vec<Bytes>) -> Result<Answer, Refused> {
        let model = &self.service.model;
        let Some(preprocessor) = model.preprocessor.clone() else {
            let expected = model.config.in_channels;
            return Err(crate::Error::from(crate::error::ImageError::Channels { expected }).into());
        };
        let begin = Instant::now();
        let slot = self.service.image_slots.clone().acquire_owned();
        let slot = self.in_time(slot).await?.map_err(|_| Refused::Dropped { reason: "no decoder is left" })?;
        let limits = ImageLimits { max_pixels: self.service.options.max_pixels, ..ImageLimits::default() };
        let (place, tile_bytes) = (self.place.clone(), model.tile_bytes());
        let cut = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let cut = |file: &Bytes| {
                let (width, height) = Image::dimensions(file, &limits)?;
                place.hold((preprocessor.num_tiles(width, height)? as u64).saturating_mul(tile_bytes))?;
                Ok(preprocessor.tiles(&Image::decode(file, &limits)?)?)
            };
            files.iter().map(cut).collect::<Result<Vec<_>, Refused>>()
        });
        let tiles = self.in_time(cut).await?.map_err(|_| Refused::Dropped { reason: "the decoder panicked" })??;
        let ratios: Vec<[usize; 2]> = tiles.iter().map(|tiles| tiles.aspect_ratio).collect();
        let count = |[down, across]: &[usize; 2]| down * across;
        let cost = ratios.iter().map(|r| model.computed_tiles.get(r).copied().unwrap_or_else(|| count(r))).sum();
        let aspect_ratios = ratios.iter().map(|ratio| ratio.map(|side| side as i64)).collect();
        let num_tiles = ratios.iter().map(|ratio| count(ratio) as i64).collect();
        self.encode(Inputs::Pictures(tiles), cost, num_tiles, aspect_ratios, begin.elapsed()).await
    }

    /// Encodes a pixel tensor `[n, t, channels, s, s]`.
    pub(super) async fn pixels(
        self,
        values: Vec<f32>,
        shape: [usize; 5],
        aspect_ratio: Option<Vec<[i64; 2]>>,
    ) -> Result<Answer, Refused> {
        let [images, tiles, ..] = shape;
        let all = images.saturating_mul(tiles);
        self.place.hold((all as u64).saturating_mul(self.service.model.tile_bytes()))?;
        let ratios = aspect_ratio.clone().unwrap_or_else(|| vec![[1, 1]; images]);
        let inputs = Inputs::Pixels { values, shape, aspect_ratio };
        self.encode(inputs, all, vec![tiles as i64; images], ratios, Duration::ZERO).await
    }

    async fn encode(
        mut self,
        inputs: Inputs,
        cost: usize,
        num_tiles: Vec<i64>,
        aspect_ratios: Vec<[i64; 2]>,
        prepare: Duration,
    ) -> Result<Answer, Refused> {
        self.timing.prepare = prepare;
        let (sender, receiver) = oneshot::channel();
        let statistics = self.service.statistics.clone();
        self.place.submit(cost, inputs, move |result| {
            if let Ok(reply) = &result {
                statistics.computed(reply, prepare);
            }
            drop(sender.send(result));
        });
        let answered = self.in_time(receiver).await?;
        let reply = answered.map_err(|_| Refused::Dropped { reason: "it was never answered" })??;
        self.timing.queue = reply.queued;
        self.timing.encode = reply.encoded;
        let metrics = &self.service.metrics;
        for (stage, time) in [
            (Stage::Receive, self.timing.receive),
            (Stage::Prepare, self.timing.prepare),
            (Stage::Queue, self.timing.queue),
            (Stage::Encode, self.timing.encode),
        ] {
            metrics.observe(stage, time);
        }
        metrics.count_tiles(num_tiles.iter().sum());
        metrics.observe_batch(reply.batch_requests);
        let width = self.service.model.config.decoder_embed_dim;
        let embeddings_shape = [reply.len() / width, width];
        let (timing, account) = (self.timing, self.account);
        Ok(Answer { reply, embeddings_shape, num_tiles, aspect_ratios, timing, account })
    }

    /// Waits for something until the deadline comes or the server stops.
    async fn in_time<T>(&self, something: impl Future<Output = T>) -> Result<T, Refused> {
        let mut stopped = self.service.stopped.subscribe();
        tokio::select! {
            biased;
            result = something => Ok(result),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(Failure::Expired.into()),
            reason = stopped.wait_for(Option::is_some) => {
                let reason = reason.ok().and_then(|reason| reason.clone()).unwrap_or_default();
                Err(Failure::Lost { reason }.into())
            }
        }
    }
}

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
use super::output::{etag, lists};
use super::refused::Refused;
use super::statistics::{Account, Statistics};
use crate::batch::{Batcher, Failure, Inputs, Place, Reply};
use crate::config::EncoderConfig;
use crate::digest::Digest;
use crate::dtype::Dtype;
use crate::encoder::{Encoder, Identity, Pixels};
use crate::image::{Image, Limits as ImageLimits, Preprocessor, Tiles};
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
    identity: Identity,
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
            identity: encoder.identity(),
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
    /// One a picture, or one for a pixel tensor.
    pub(super) content_hashes: Vec<Digest>,
    pub(super) timing: Timing,
    account: Account,
}

impl Answer {
    /// The response is made.
    pub(super) fn succeeded(self) {
        self.account.succeed(&self.timing, &self.reply);
    }

    /// The content hash of all of it.
    pub(super) fn content_hash(&self) -> Digest {
        Digest::of_all(&self.content_hashes)
    }

    /// The ETag of its embeddings in this element type.
    pub(super) fn etag(&self, dtype: Dtype) -> String {
        etag(&self.content_hash(), dtype)
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
    /// ETags that the client has, and the element type that it asks for.
    known: Option<(String, Dtype)>,
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
        Ok(Visit { service: self, place, deadline, account, timing: Timing::default(), known: None })
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

    /// Nothing is computed for a client that has it: one whose If-None-Match lists the ETag.
    pub(super) fn unless_known(&mut self, headers: &HeaderMap, dtype: Dtype) {
        let tags = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        self.known = tags.map(|tags| (tags.to_string(), dtype));
    }

    fn require_unknown(&self, content_hashes: &[Digest]) -> Result<(), Refused> {
        let Some((tags, dtype)) = &self.known else { return Ok(()) };
        let etag = etag(&Digest::of_all(content_hashes), *dtype);
        if lists(tags, &etag) { Err(Refused::Unchanged { etag }) } else { Ok(()) }
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
        let (place, tile_bytes, identity) = (self.place.clone(), model.tile_bytes(), model.identity);
        let cut = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let cut = |file: &Bytes| {
                let (width, height) = Image::dimensions(file, &limits)?;
                place.hold((preprocessor.num_tiles(width, height)? as u64).saturating_mul(tile_bytes))?;
                let image = Image::decode(file, &limits)?;
                let (tiles, digest) = rayon::join(|| preprocessor.tiles(&image), || image.digest());
                Ok((tiles?, identity.content_hash(&digest, Some(&preprocessor))))
            };
            files.iter().map(cut).collect::<Result<Vec<_>, Refused>>()
        });
        let cut = self.in_time(cut).await?.map_err(|_| Refused::Dropped { reason: "the decoder panicked" })??;
        let (tiles, content_hashes): (Vec<Tiles>, Vec<Digest>) = cut.into_iter().unzip();
        self.require_unknown(&content_hashes)?;
        let ratios: Vec<[usize; 2]> = tiles.iter().map(|tiles| tiles.aspect_ratio).collect();
        let count = |[down, across]: &[usize; 2]| down * across;
        let cost = ratios.iter().map(|r| model.computed_tiles.get(r).copied().unwrap_or_else(|| count(r))).sum();
        let aspect_ratios = ratios.iter().map(|ratio| ratio.map(|side| side as i64)).collect();
        let num_tiles = ratios.iter().map(|ratio| count(ratio) as i64).collect();
        let inputs = Inputs::Pictures(tiles);
        self.encode(inputs, cost, num_tiles, aspect_ratios, content_hashes, begin.elapsed()).await
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
        let begin = Instant::now();
        let identity = self.service.model.identity;
        let hash = tokio::task::spawn_blocking(move || {
            let [n, t, channels, height, width] = shape;
            let shape = [1, n, t, channels, height, width];
            let pixels = Pixels { images: &values, shape, aspect_ratio: aspect_ratio.as_deref() };
            let content_hash = identity.content_hash(&pixels.digest(), None);
            (values, aspect_ratio, content_hash)
        });
        let hash = self.in_time(hash).await?.map_err(|_| Refused::Dropped { reason: "hashing panicked" })?;
        let (values, aspect_ratio, content_hash) = hash;
        let content_hashes = vec![content_hash];
        self.require_unknown(&content_hashes)?;
        let aspect_ratios = aspect_ratio.clone().unwrap_or_else(|| vec![[1, 1]; images]);
        let inputs = Inputs::Pixels { values, shape, aspect_ratio };
        let num_tiles = vec![tiles as i64; images];
        self.encode(inputs, all, num_tiles, aspect_ratios, content_hashes, begin.elapsed()).await
    }

    async fn encode(
        mut self,
        inputs: Inputs,
        cost: usize,
        num_tiles: Vec<i64>,
        aspect_ratios: Vec<[i64; 2]>,
        content_hashes: Vec<Digest>,
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
        Ok(Answer { reply, embeddings_shape, num_tiles, aspect_ratios, content_hashes, timing, account })
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

//! What all protocols share: a request's way from its admission to its embeddings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::sync::{Semaphore, oneshot, watch};

use super::Options;
use super::body::at_length;
use super::cache::{Cache, Lookup};
use super::deadline;
use super::metrics::{Metrics, Stage, Timing};
use super::output::{etag, lists};
use super::outputs::Wanted;
use super::refused::Refused;
use super::shared_memory::Regions;
use super::statistics::Account;
use crate::batch::{Batcher, Failure, Inputs, Place, Reply};
use crate::config::EncoderConfig;
use crate::digest::Digest;
use crate::dtype::Dtype;
use crate::encoder::{self, Encoder, Identity, Pixels};
use crate::image::{Canvas, Image, Limits as ImageLimits, Preprocessor};
use crate::plan::Semantics;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

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
    pub(super) metrics: Arc<Metrics>,
    pub(super) regions: Regions,
    /// None where it is off.
    pub(super) cache: Option<Cache>,
    /// None where nobody collects them.
    #[cfg(feature = "otel")]
    pub(super) traces: Option<super::traces::Traces>,
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
    /// One a picture; of a pixel tensor there is none.
    pub(super) placements: Vec<Placement>,
    pub(super) timing: Timing,
    /// Whether it was known, where there is a cache.
    pub(super) lookup: Option<Lookup>,
    account: Account,
}

/// Where a picture came to lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placement {
    /// The picture's height and width in its file.
    pub(super) size: [usize; 2],
    pub(super) canvas: Canvas,
}

impl Answer {
    /// The response is made, which took so long; the headers that say how it came about.
    pub(super) fn is_made(&mut self, serialise: Duration) -> HeaderMap {
        self.timing.add(Stage::Serialise, serialise);
        let timing = HeaderValue::try_from(self.account.succeed(&self.timing, self.lookup)).ok();
        let lookup = self.lookup.map(|lookup| HeaderValue::from_static(lookup.header()));
        let headers = [(SERVER_TIMING, timing), (CACHE_STATUS, lookup)];
        headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
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

/// One request that has been let in.
pub(super) struct Visit<'a> {
    service: &'a Service,
    pub(super) place: Arc<Place>,
    pub(super) deadline: Instant,
    /// When the stage began that it is in.
    begin: Instant,
    account: Account,
    timing: Timing,
    /// ETags that the client has, and the element type that it asks for.
    known: Option<(String, Dtype)>,
    /// The outputs that need room in the client's memory.
    wanted: Option<Arc<Wanted>>,
}

impl Service {
    /// `metrics` count the batcher's batches.
    pub(super) fn new(batcher: Batcher, model: Model, metrics: Arc<Metrics>, options: Options) -> Self {
        let image_slots = Arc::new(Semaphore::new(options.image_threads.max(1)));
        let (stopped, _) = watch::channel(None);
        let regions = Regions::new(options.shared_memory_regions);
        let budget = Some(options.answer_cache).filter(|budget| *budget > 0);
        let cache = budget.map(|budget| Cache::new(budget, model.computed_in));
        Self {
            batcher,
            model,
            options,
            metrics,
            regions,
            cache,
            #[cfg(feature = "otel")]
            traces: None,
            image_slots,
            stopped,
        }
    }

    /// Lets a request in, or refuses it before any of its body is read.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Visit<'_>, Refused> {
        let (begin, account) = (Instant::now(), Account::open(&self.metrics));
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(Refused::malformed(format!(
                "bodies are taken as they are, found Content-Encoding {encoding:?}"
            )));
        }
        let timeout = deadline::asked(headers)?.map_or(self.options.timeout, |asked| asked.min(self.options.timeout));
        let deadline = begin + timeout;
        let place = Arc::new(self.batcher.admit(deadline)?);
        let timing = Timing::default();
        Ok(Visit { service: self, place, deadline, begin, account, timing, known: None, wanted: None })
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
        self.ends(Stage::Receive);
    }

    /// A stage ends, and the next begins.
    fn ends(&mut self, stage: Stage) {
        let now = Instant::now();
        self.timing.add(stage, now - self.begin);
        self.begin = now;
    }

    /// Nothing is computed for a client that has it: one whose If-None-Match lists the ETag.
    pub(super) fn unless_known(&mut self, headers: &HeaderMap, dtype: Dtype) {
        let tags = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        self.known = tags.map(|tags| (tags.to_string(), dtype));
    }

    /// Nothing is computed whose outputs have no room where they are to be.
    pub(super) fn for_outputs(&mut self, wanted: Arc<Wanted>) {
        self.wanted = Some(wanted);
    }

    fn require_unknown(&self, content_hashes: &[Digest]) -> Result<(), Refused> {
        let Some((tags, dtype)) = &self.known else { return Ok(()) };
        let etag = etag(&Digest::of_all(content_hashes), *dtype);
        if lists(tags, &etag) { Err(Refused::Unchanged { etag }) } else { Ok(()) }
    }

    /// Encodes pictures, given as files.
    pub(super) async fn pictures(mut self, files: Vec<Bytes>) -> Result<Answer, Refused> {
        let model = &self.service.model;
        let Some(preprocessor) = model.preprocessor.clone() else {
            let expected = model.config.in_channels;
            return Err(crate::Error::from(crate::error::ImageError::Channels { expected }).into());
        };
        self.ends(Stage::Decode);
        let slot = self.service.image_slots.clone().acquire_owned();
        let slot = self.in_time(slot).await?.map_err(|_| Refused::Dropped { reason: "no decoder is left" })?;
        let limits = ImageLimits { max_pixels: self.service.options.max_pixels, ..ImageLimits::default() };
        let (place, tile_bytes, identity) = (self.place.clone(), model.tile_bytes(), model.identity);
        let cut = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let mut timing = Timing::default();
            let cut = |file: &Bytes| {
                let begin = Instant::now();
                let (width, height) = Image::dimensions(file, &limits)?;
                let canvas = preprocessor.canvas(width, height)?;
                place.hold((canvas.num_tiles() as u64).saturating_mul(tile_bytes))?;
                let image = Image::decode(file, &limits)?;
                let decoded = Instant::now();
                let (tiles, digest) = rayon::join(|| preprocessor.tiles(&image), || image.digest());
                timing.add(Stage::Decode, decoded - begin);
                timing.add(Stage::Preprocess, decoded.elapsed());
                let content_hash = identity.content_hash(&digest, Some(&preprocessor));
                Ok((tiles?, content_hash, Placement { size: [height, width], canvas }))
            };
            let cut = files.iter().map(cut).collect::<Result<(Vec<_>, Vec<_>, Vec<_>), Refused>>()?;
            Ok::<_, Refused>((cut, timing))
        });
        let cut = self.in_time(cut).await?.map_err(|_| Refused::Dropped { reason: "the decoder panicked" })?;
        let ((tiles, content_hashes, placements), timing) = cut?;
        self.has_worked(&timing);
        self.require_unknown(&content_hashes)?;
        let ratios: Vec<[usize; 2]> = tiles.iter().map(|tiles| tiles.aspect_ratio).collect();
        let count = |[down, across]: &[usize; 2]| down * across;
        let cost = ratios.iter().map(|r| model.computed_tiles.get(r).copied().unwrap_or_else(|| count(r))).sum();
        let aspect_ratios = ratios.iter().map(|ratio| ratio.map(|side| side as i64)).collect();
        let num_tiles = ratios.iter().map(|ratio| count(ratio) as i64).collect();
        let answer = self.encode(Inputs::Pictures(tiles), cost, num_tiles, aspect_ratios, content_hashes).await?;
        Ok(Answer { placements, ..answer })
    }

    /// Encodes a pixel tensor `[n, t, channels, s, s]`.
    pub(super) async fn pixels(
        mut self,
        values: Vec<f32>,
        shape: [usize; 5],
        aspect_ratio: Option<Vec<[i64; 2]>>,
    ) -> Result<Answer, Refused> {
        let [images, tiles, ..] = shape;
        let all = images.saturating_mul(tiles);
        self.place.hold((all as u64).saturating_mul(self.service.model.tile_bytes()))?;
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
        self.ends(Stage::Decode);
        let content_hashes = vec![content_hash];
        self.require_unknown(&content_hashes)?;
        let aspect_ratios = aspect_ratio.clone().unwrap_or_else(|| vec![[1, 1]; images]);
        let inputs = Inputs::Pixels { values, shape, aspect_ratio };
        let num_tiles = vec![tiles as i64; images];
        self.encode(inputs, all, num_tiles, aspect_ratios, content_hashes).await
    }

    async fn encode(
        mut self,
        inputs: Inputs,
        cost: usize,
        num_tiles: Vec<i64>,
        aspect_ratios: Vec<[i64; 2]>,
        content_hashes: Vec<Digest>,
    ) -> Result<Answer, Refused> {
        let config = &self.service.model.config;
        let width = config.decoder_embed_dim;
        if let Some(wanted) = &self.wanted {
            let tiles: u64 = num_tiles.iter().map(|tiles| tiles.unsigned_abs()).sum();
            wanted.require_room(num_tiles.len(), tiles.saturating_mul((config.num_tokens() * width) as u64))?;
        }
        let known = self.known_embeddings(&content_hashes);
        let lookup = self.service.cache.as_ref().map(|_| if known.is_some() { Lookup::Hit } else { Lookup::Miss });
        let reply = match known {
            Some(reply) => reply,
            None => {
                let reply = self.compute(inputs, cost).await?;
                self.service.metrics.count_tiles(num_tiles.iter().sum());
                self.keep(&reply, &content_hashes, &num_tiles);
                reply
            }
        };
        let embeddings_shape = [reply.len() / width, width];
        let (timing, account) = (self.timing, self.account);
        Ok(Answer {
            reply,
            embeddings_shape,
            num_tiles,
            aspect_ratios,
            content_hashes,
            placements: Vec::new(),
            timing,
            lookup,
            account,
        })
    }

    /// The embeddings of these content hashes, if the cache has them.
    fn known_embeddings(&mut self, content_hashes: &[Digest]) -> Option<Reply> {
        let cache = self.service.cache.as_ref()?;
        let found = cache.find(content_hashes)?;
        let bytes = found.iter().map(Bytes::len).sum();
        // The request holds room for its embeddings in f32.
        let reply = at_length(bytes, || Reply::known(cache.widen(&found)));
        self.ends(Stage::Cache);
        Some(reply)
    }

    /// Puts embeddings into the cache, if there is one.
    fn keep(&mut self, reply: &Reply, content_hashes: &[Digest], num_tiles: &[i64]) {
        let Some(cache) = &self.service.cache else { return };
        let lens = match content_hashes {
            // A picture, or all images of a pixel tensor.
            [_] => vec![reply.len()],
            _ => {
                let config = &self.service.model.config;
                let tile = config.num_tokens() * config.decoder_embed_dim;
                num_tiles.iter().map(|tiles| *tiles as usize * tile).collect()
            }
        };
        at_length(size_of_val(&reply[..]), || cache.keep(content_hashes, &lens, reply, &self.place));
        self.ends(Stage::Cache);
    }

    /// Waits for its turn and for the encoder.
    async fn compute(&mut self, inputs: Inputs, cost: usize) -> Result<Reply, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.place.submit(cost, inputs, move |result| drop(sender.send(result)));
        let answered = self.in_time(receiver).await?;
        let reply = answered.map_err(|_| Refused::Dropped { reason: "it was never answered" })??;
        let mut timing = Timing::default();
        match reply.timing {
            encoder::Timing::Host { compute } => timing.add(Stage::Compute, compute),
            encoder::Timing::Gpu { h2d, compute, d2h } => {
                timing.add(Stage::H2d, h2d);
                timing.add(Stage::Gpu, compute);
                timing.add(Stage::D2h, d2h);
            }
        }
        self.has_worked(&timing);
        Ok(reply)
    }

    /// A part of the time since the last stage went as others say, and the rest was spent waiting.
    fn has_worked(&mut self, timing: &Timing) {
        let now = Instant::now();
        self.timing.add(Stage::Queue, (now - self.begin).saturating_sub(timing.total()));
        self.timing.append(timing);
        self.begin = now;
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

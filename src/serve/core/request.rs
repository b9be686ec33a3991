//! One request, from its admission to its embeddings.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use tokio::sync::oneshot;

use super::body::block_in_place_if_large;
use super::cache::Lookup;
use super::deadline;
use super::encoded::{Encoded, Placement};
use super::error::ApiError;
use super::etag::{etag, lists};
use super::metrics::RequestStats;
use super::outputs::RequestedOutputs;
use super::service::Service;
use super::tensors::{Contents, Tensors};
use crate::batch::{Failure, Inputs, Place, Reply};
use crate::digest::Digest;
use crate::encoder::Pixels;
use crate::error::ImageError;
use crate::image::{Image, Interrupt, Limits as ImageLimits, Tiles};
use crate::memory;
use crate::stages::{Stage, StageTimes};

/// A request that was announced.
pub(crate) struct RequestContext<'a> {
    service: &'a Service,
    pub(crate) place: Arc<Place>,
    pub(crate) deadline: Instant,
    /// When the current stage began.
    begin: Instant,
    stats: RequestStats,
    times: StageTimes,
    /// ETags of embeddings that the client has.
    if_none_match: Option<String>,
}

/// Pictures that were cut into tiles.
struct Preprocessed {
    tiles: Vec<Tiles>,
    content_hashes: Vec<Digest>,
    placements: Vec<Placement>,
}

/// The images whose embeddings a request wants.
struct Images {
    num_tiles: Vec<i64>,
    aspect_ratios: Vec<[i64; 2]>,
    content_hashes: Vec<Digest>,
    placements: Vec<Placement>,
}

impl<'a> RequestContext<'a> {
    /// Announces a request, before any of its body is read.
    ///
    /// # Errors
    /// [`ApiError::Malformed`] for a header, and those of [`Batcher::announce`](crate::batch::Batcher::announce).
    pub(crate) fn announce(service: &'a Service, headers: &HeaderMap) -> Result<Self, ApiError> {
        let (begin, stats) = (Instant::now(), RequestStats::begin(&service.metrics));
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(ApiError::malformed(format!(
                "bodies are taken as they are, found Content-Encoding {encoding:?}"
            )));
        }
        let timeout =
            deadline::asked(headers)?.map_or(service.options.timeout, |asked| asked.min(service.options.timeout));
        let deadline = begin + timeout;
        let place = Arc::new(service.batcher.announce(deadline)?);
        let times = StageTimes::default();
        Ok(Self { service, place, deadline, begin, stats, times, if_none_match: None })
    }

    /// Computes nothing for a client that has the embeddings: one whose If-None-Match lists their ETag.
    pub(crate) fn set_if_none_match(&mut self, headers: &HeaderMap) {
        // The header may come in several lines, which are one list.
        let lines = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
        self.if_none_match = lines.map(String::from).reduce(|tags, line| tags + "," + &line);
    }

    /// A stage ends, and the next begins.
    pub(crate) fn end_stage(&mut self, stage: Stage) {
        let now = Instant::now();
        self.times.add(stage, now - self.begin);
        self.begin = now;
    }

    /// Others worked on the request for a part of the time since the last stage. The rest was spent waiting.
    fn record_work(&mut self, work: &StageTimes) {
        let now = Instant::now();
        self.times.add(Stage::Queue, (now - self.begin).saturating_sub(work.total()));
        self.times.append(work);
        self.begin = now;
    }

    /// Encodes the request's tensors. Nothing is computed where the outputs have no room.
    ///
    /// # Errors
    /// Every [`ApiError`] but those of bodies.
    pub(crate) async fn encode(self, mut tensors: Tensors, outputs: &RequestedOutputs) -> Result<Encoded, ApiError> {
        self.place.hold(tensors.shared_bytes())?;
        block_in_place_if_large(tensors.shared_bytes() as usize, || tensors.read_shared())?;
        self.place.hold(tensors.slices())?;
        match block_in_place_if_large(tensors.bytes(), || tensors.into_contents())? {
            Contents::Pictures(files) => self.encode_pictures(files, outputs).await,
            Contents::Pixels { values, shape, aspect_ratio } => {
                self.encode_pixels(values, shape, aspect_ratio, outputs).await
            }
        }
    }

    /// Encodes pictures, given as files.
    async fn encode_pictures(mut self, files: Vec<Bytes>, outputs: &RequestedOutputs) -> Result<Encoded, ApiError> {
        let model = &self.service.model;
        self.end_stage(Stage::Decode);
        let Preprocessed { tiles, content_hashes, placements } = self.preprocess(files).await?;
        let ratios: Vec<[usize; 2]> = tiles.iter().map(|tiles| tiles.aspect_ratio).collect();
        let cost = ratios.iter().map(|ratio| model.num_computed_tiles(*ratio)).sum();
        let images = Images {
            num_tiles: ratios.iter().map(|[down, across]| (down * across) as i64).collect(),
            aspect_ratios: ratios.iter().map(|ratio| ratio.map(|side| side as i64)).collect(),
            content_hashes,
            placements,
        };
        self.encode_inputs(Inputs::Pictures(tiles), cost, images, outputs).await
    }

    /// Decodes pictures and cuts them into tiles, on a thread that may block. What they take is known, and held, before the
    /// first is decoded. The work ends when its deadline comes, and when this future is dropped: its client has left.
    async fn preprocess(&mut self, files: Vec<Bytes>) -> Result<Preprocessed, ApiError> {
        let model = &self.service.model;
        let Some(preprocessor) = model.preprocessor.clone() else {
            let expected = model.config.in_channels;
            return Err(crate::Error::from(ImageError::Channels { expected }).into());
        };
        let (tile_bytes, tile_pixel_bytes) = (model.tile_bytes(), 4 * model.config.tile_len() as u64);
        // Every picture has a tile, so too many are refused before their headers are read.
        let least = (files.len() as u64).saturating_mul(tile_bytes);
        self.place.hold(least)?;
        let slot = self.service.image_slots.clone().acquire_owned();
        let slot = self.in_time(slot).await?.map_err(|_| ApiError::Dropped { reason: "no decoder is left" })?;
        let limits = ImageLimits { max_pixels: self.service.options.max_pixels, ..ImageLimits::default() };
        let (place, identity, deadline) = (self.place.clone(), model.identity, self.deadline);
        let waiting = Arc::new(());
        let awaited = Arc::downgrade(&waiting);
        let work = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let nobody_waits = || awaited.strong_count() == 0 || Instant::now() >= deadline;
            let interrupt = Interrupt::when(&nobody_waits);
            let (begin, mut times) = (Instant::now(), StageTimes::default());
            let mut placements = memory::reserve(files.len())?;
            let (mut num_tiles, mut decoding_bytes) = (0, 0);
            for file in &files {
                interrupt.check().map_err(crate::Error::from)?;
                let header = Image::header(file, &limits)?;
                let canvas = preprocessor.canvas(header.width, header.height)?;
                num_tiles += canvas.num_tiles() as u64;
                decoding_bytes = header.decoding_bytes.max(decoding_bytes);
                placements.push(Placement { size: [header.height, header.width], canvas });
            }
            // Pictures are decoded one by one, and no embeddings are there yet.
            let preprocessing = num_tiles.saturating_mul(tile_pixel_bytes).saturating_add(decoding_bytes);
            place.hold(num_tiles.saturating_mul(tile_bytes).max(preprocessing).saturating_sub(least))?;
            times.add(Stage::Decode, begin.elapsed());
            let cut = |file: &Bytes| {
                let begin = Instant::now();
                let image = Image::decode_until(file, &limits, interrupt)?;
                let decoded = Instant::now();
                let tiles = || preprocessor.tiles_until(&image, interrupt);
                let (tiles, digest) = rayon::join(tiles, || image.digest_until(interrupt));
                times.add(Stage::Decode, decoded - begin);
                times.add(Stage::Preprocess, decoded.elapsed());
                Ok((tiles?, identity.content_hash(&digest?, Some(&preprocessor))))
            };
            let (tiles, content_hashes) = files.iter().map(cut).collect::<Result<_, crate::Error>>()?;
            Ok::<_, ApiError>((Preprocessed { tiles, content_hashes, placements }, times))
        });
        let work = self.in_time(work).await?.map_err(|_| ApiError::Dropped { reason: "the decoder panicked" })?;
        drop(waiting);
        let (preprocessed, times) = work.map_err(|error| match error {
            ApiError::Encoder(crate::Error::Image(ImageError::Interrupted)) => Failure::Expired.into(),
            error => error,
        })?;
        self.record_work(&times);
        Ok(preprocessed)
    }

    /// Encodes a pixel tensor `[n, t, channels, s, s]`.
    async fn encode_pixels(
        mut self,
        values: Vec<f32>,
        shape: [usize; 5],
        aspect_ratio: Option<Vec<[i64; 2]>>,
        outputs: &RequestedOutputs,
    ) -> Result<Encoded, ApiError> {
        let [n, t, channels, height, width] = shape;
        let tensor = [1, n, t, channels, height, width];
        // From here on the shape is as large as the values are many.
        Pixels { images: &values, shape: tensor, aspect_ratio: None }.check(&self.service.model.config)?;
        let all = n * t;
        self.place.hold((all as u64).saturating_mul(self.service.model.tile_bytes()))?;
        let identity = self.service.model.identity;
        let hash = tokio::task::spawn_blocking(move || {
            let pixels = Pixels { images: &values, shape: tensor, aspect_ratio: aspect_ratio.as_deref() };
            let content_hash = identity.content_hash(&pixels.digest(), None);
            (values, aspect_ratio, content_hash)
        });
        let hash = self.in_time(hash).await?.map_err(|_| ApiError::Dropped { reason: "hashing panicked" })?;
        let (values, aspect_ratio, content_hash) = hash;
        self.end_stage(Stage::Decode);
        let images = Images {
            num_tiles: vec![t as i64; n],
            aspect_ratios: aspect_ratio.clone().unwrap_or_else(|| vec![[1, 1]; n]),
            content_hashes: vec![content_hash],
            placements: Vec::new(),
        };
        self.encode_inputs(Inputs::Pixels { values, shape, aspect_ratio }, all, images, outputs).await
    }

    /// Encodes inputs, of which `cost` tiles count in a batch, unless the client or the cache has their embeddings.
    async fn encode_inputs(
        mut self,
        inputs: Inputs,
        cost: usize,
        images: Images,
        outputs: &RequestedOutputs,
    ) -> Result<Encoded, ApiError> {
        let Images { num_tiles, aspect_ratios, content_hashes, placements } = images;
        self.require_modified(&content_hashes, outputs)?;
        let model = &self.service.model;
        let tiles: u64 = num_tiles.iter().map(|tiles| tiles.unsigned_abs()).sum();
        outputs.require_room(num_tiles.len(), tiles.saturating_mul(model.tile_embeddings_len() as u64))?;
        let known = self.known_embeddings(&content_hashes)?;
        let lookup = self.service.cache.as_ref().map(|_| if known.is_some() { Lookup::Hit } else { Lookup::Miss });
        let reply = match known {
            Some(reply) => {
                self.place.finish();
                reply
            }
            None => {
                let reply = self.compute(inputs, cost).await?;
                self.service.metrics.count_tiles(num_tiles.iter().sum());
                self.fill_cache(&reply, &content_hashes, &num_tiles);
                reply
            }
        };
        let width = model.config.decoder_embed_dim;
        Ok(Encoded {
            embeddings_shape: [reply.len() / width, width],
            reply,
            num_tiles,
            aspect_ratios,
            content_hashes,
            placements,
            times: self.times,
            lookup,
            stats: self.stats,
        })
    }

    fn require_modified(&self, content_hashes: &[Digest], outputs: &RequestedOutputs) -> Result<(), ApiError> {
        let Some(tags) = &self.if_none_match else { return Ok(()) };
        let etag = etag(&Digest::of_all(content_hashes), outputs.dtype());
        if lists(tags, &etag) { Err(ApiError::NotModified { etag }) } else { Ok(()) }
    }

    /// The embeddings of these content hashes, if the cache has them.
    fn known_embeddings(&mut self, content_hashes: &[Digest]) -> Result<Option<Reply>, ApiError> {
        let Some(cache) = &self.service.cache else { return Ok(None) };
        let Some(found) = cache.find(content_hashes) else { return Ok(None) };
        let bytes = found.iter().map(Bytes::len).sum();
        // The request has reserved memory for its embeddings in f32.
        let embeddings = block_in_place_if_large(bytes, || cache.widen(&found))?;
        self.end_stage(Stage::Cache);
        Ok(Some(Reply::known(embeddings)))
    }

    /// Puts embeddings into the cache, if there is one.
    fn fill_cache(&mut self, reply: &Reply, content_hashes: &[Digest], num_tiles: &[i64]) {
        let Some(cache) = &self.service.cache else { return };
        let lens = match content_hashes {
            // A picture, or all images of a pixel tensor.
            [_] => vec![reply.len()],
            _ => {
                let tile = self.service.model.tile_embeddings_len();
                num_tiles.iter().map(|tiles| *tiles as usize * tile).collect()
            }
        };
        block_in_place_if_large(size_of_val(&reply[..]), || cache.keep(content_hashes, &lens, reply, &self.place));
        self.end_stage(Stage::Cache);
    }

    /// Waits for the request's turn and for the encoder.
    async fn compute(&mut self, inputs: Inputs, cost: usize) -> Result<Reply, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.place.observe_preparation(self.times.of(Stage::Decode) + self.times.of(Stage::Preprocess));
        self.place.submit(cost, inputs, move |result| drop(sender.send(result)));
        let answered = self.in_time(receiver).await?;
        let reply = answered.map_err(|_| ApiError::Dropped { reason: "it was never answered" })??;
        self.record_work(&reply.timing.into());
        Ok(reply)
    }

    /// Waits for something until the deadline comes or the server stops.
    async fn in_time<T>(&self, something: impl Future<Output = T>) -> Result<T, ApiError> {
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

//! What decides the bits of an encoder's results, as one number.

use std::convert::Infallible;

use super::Encoder;
use crate::digest::{Digest, Fields};
use crate::error::Error;
use crate::image::{Image, Interrupt, Preprocessor};

/// The digest of all that decides an encoder's bits but its input: the engine's version, the weights, the configuration,
/// the semantics, the element types, and the numerics of where it computes. Two encoders of one identity give the same
/// bits for the same input; see [`content_hash`](Self::content_hash).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(Digest);

impl Identity {
    /// The identity itself.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// The content hash of the embeddings that this encoder gives for an input: a picture's [`Image::digest`] with what
    /// cuts it into tiles, or a pixel tensor's [`Pixels::digest`](super::Pixels::digest) without. Equal hashes mean equal
    /// bits, so an answer can be known without computing it.
    pub fn content_hash(&self, input: &Digest, preprocessor: Option<&Preprocessor>) -> Digest {
        let mut fields = Fields::of("content");
        fields.add(self.0.as_bytes());
        match preprocessor {
            Some(preprocessor) => {
                fields.add(preprocessor.preprocess().name());
                fields.add(format!("{:?} {:?}", preprocessor.mean(), preprocessor.std()));
            }
            None => fields.add("pixels"),
        }
        fields.add(input.as_bytes());
        fields.finish()
    }
}

impl Encoder {
    /// What decides the bits of its results. On the CPU the first call reads all weights, which takes as long as that does
    /// (about half a second for the 1.7 GB of the 11B encoder on two cores, once they are in memory); a GPU's are read while
    /// they travel to it.
    pub fn identity(&self) -> Identity {
        *self.identity.get_or_init(|| {
            let mut fields = Fields::of("tilesight");
            fields.add(env!("CARGO_PKG_VERSION"));
            fields.add(self.backend.weights_digest().as_bytes());
            // Every parameter under its name.
            fields.add(format!("{:?}", self.config));
            fields.add(self.semantics.name());
            fields.add(if self.collapse { "collapsed" } else { "uncollapsed" });
            let precision = self.precision();
            fields.add(precision.activations.safetensors_name());
            fields.add(precision.weights.safetensors_name());
            fields.add(self.backend.numerics());
            Identity(fields.finish())
        })
    }
}

impl super::Pixels<'_> {
    /// The digest of a pixel tensor: values, shape and aspect ratios.
    pub fn digest(&self) -> Digest {
        let mut fields = Fields::of("pixels");
        fields.add(format!("{:?} {:?}", self.shape, self.aspect_ratio));
        fields.add(Digest::of_bytes(bytemuck::cast_slice(self.images)).as_bytes());
        fields.finish()
    }
}

impl Image {
    /// The digest of a picture's pixels: its size, colours and alpha, whichever file they came in.
    pub fn digest(&self) -> Digest {
        let Ok(digest) = self.digest_of(|bytes| Ok::<_, Infallible>(Digest::of_bytes(bytes)));
        digest
    }

    /// [`digest`](Self::digest), which ends within milliseconds once nobody waits for it.
    ///
    /// # Errors
    /// [`ImageError::Interrupted`](crate::error::ImageError::Interrupted),
    /// [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
    pub fn digest_until(&self, interrupt: Interrupt) -> Result<Digest, Error> {
        self.digest_of(|bytes| Digest::of_bytes_until(bytes, interrupt))
    }

    fn digest_of<E>(&self, of_bytes: impl Fn(&[u8]) -> Result<Digest, E>) -> Result<Digest, E> {
        let mut fields = Fields::of("image");
        fields.add([self.width() as u64, self.height() as u64].map(u64::to_le_bytes).as_flattened());
        fields.add(of_bytes(self.rgb())?.as_bytes());
        if let Some(alpha) = self.alpha() {
            fields.add(of_bytes(alpha)?.as_bytes());
        }
        Ok(fields.finish())
    }
}

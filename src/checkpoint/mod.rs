//! Checkpoints: safetensors files in any of the three published name formats.
//!
//! [`Checkpoint::open`] finds the files and the tensors that belong to the encoder; the text model's tensors in the
//! same shards are never touched. [`VisionWeights::load`] checks every tensor against a configuration and hands them
//! to a backend in the model's own order, in memory that is theirs: what becomes of the files later changes nothing.

mod digest;
mod file;
mod gathering;
#[cfg(feature = "hub")]
pub mod hub;
mod names;
mod random;
mod resize;
mod stored;
mod tables;
mod tensor;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::error::{CheckpointError, Error, Result};
use crate::image::{Preprocess, Preprocessor};
use gathering::Gathering;
pub use names::NameFormat;
pub use random::{RandomWeights, demo_config};
use stored::{Part, Place, StoredTensor};
pub use tables::{PositionTables, TileBlocks};
pub use tensor::Tensor;
pub(crate) use weights::tanh;
pub use weights::{ExpectedTensor, LayerWeights, Linear, Norm, TokenPositions, VisionWeights, expected_tensors};

/// An opened checkpoint: which tensors of the encoder it holds, and where. Opening reads headers only.
///
/// Cheap to clone. Weights that are loaded from one checkpoint, or from clones of it, have their bytes in memory once.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    format: NameFormat,
    files: Vec<PathBuf>,
    /// By torchtune name.
    tensors: Arc<BTreeMap<String, StoredTensor>>,
    num_other_tensors: usize,
    read: Read,
}

/// All tensors of a checkpoint, while somebody has them. One encoder has all or none from another, so that a file that is
/// rewritten between the two gives no mixture.
type Read = Arc<Mutex<Weak<BTreeMap<String, Tensor>>>>;

/// A line of a checkpoint's table of contents.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TensorSummary {
    /// The name in the file.
    pub name: String,
    /// torchtune's name for the same tensor.
    pub torchtune: String,
    /// The element type in the file.
    pub dtype: String,
    /// The shape in the file.
    pub shape: Vec<usize>,
    /// The file that holds it.
    pub file: PathBuf,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, an index (`….safetensors.index.json`), or a folder with either: `model.safetensors`,
    /// `model.safetensors.index.json`, Meta's `consolidated*.safetensors` (one file a model-parallel rank), or any
    /// other `.safetensors` files, in this order.
    ///
    /// The files stay open while the checkpoint lives. Weights are read when they are loaded, and a file that is written to
    /// before that may give any of its states, or a mixture of them.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`], [`Pickle`](CheckpointError::Pickle), [`Damaged`](CheckpointError::Damaged),
    /// [`Index`](CheckpointError::Index), [`NotAnEncoder`](CheckpointError::NotAnEncoder),
    /// [`MixedNames`](CheckpointError::MixedNames), [`Repeated`](CheckpointError::Repeated), [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let not_found = || CheckpointError::NotFound { path: path.to_path_buf() };
        if !path.is_dir() {
            if !path.is_file() {
                return Err(not_found().into());
            }
            if is_pickle(path) {
                return Err(CheckpointError::Pickle { path: path.to_path_buf() }.into());
            }
            return match path.extension().and_then(|e| e.to_str()) {
                Some("json") => Self::from_index(path, path),
                _ => Self::from_files(path, vec![path.to_path_buf()], false),
            };
        }
        let single = path.join("model.safetensors");
        if single.is_file() {
            return Self::from_files(path, vec![single], false);
        }
        let index = path.join("model.safetensors.index.json");
        if index.is_file() {
            return Self::from_index(path, &index);
        }
        let listed = std::fs::read_dir(path).map_err(Error::io(path))?;
        let names = listed.map(|entry| Ok(entry.map_err(Error::io(path))?.path())).collect::<Result<BTreeSet<_>>>()?;
        let (files, others): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|p| p.extension().is_some_and(|e| e == "safetensors"));
        let is_rank = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("consolidated"));
        let ranks: Vec<_> = files.iter().filter(|p| is_rank(p)).cloned().collect();
        if !ranks.is_empty() {
            let several = ranks.len() > 1;
            return Self::from_files(path, ranks, several);
        }
        if !files.is_empty() {
            return Self::from_files(path, files, false);
        }
        match others.into_iter().find(|p| is_pickle(p)) {
            Some(path) => Err(CheckpointError::Pickle { path }.into()),
            None => Err(not_found().into()),
        }
    }

    /// A checkpoint of tensors in memory, by torchtune name; `path` names it in errors.
    pub(crate) fn in_memory(path: &Path, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| {
            let (dtype, shape) = (Ok(tensor.dtype()), tensor.shape().to_vec());
            let part = Part { shape, dtype, file: 0, place: Place::Memory(tensor) };
            (name.clone(), StoredTensor::new(name, part))
        });
        Self {
            path: path.to_path_buf(),
            format: NameFormat::Torchtune,
            files: vec![path.to_path_buf()],
            tensors: Arc::new(tensors.collect()),
            num_other_tensors: 0,
            read: Read::default(),
        }
    }

    /// Where the checkpoint was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose tensor names it uses.
    pub fn format(&self) -> NameFormat {
        self.format
    }

    /// The files that hold tensors of the encoder.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Tensors that belong to something else, the text model mostly.
    pub fn num_other_tensors(&self) -> usize {
        self.num_other_tensors
    }

    /// The encoder's tensors, by torchtune name.
    pub fn summary(&self) -> Vec<TensorSummary> {
        let line = |(tune, stored): (&String, &StoredTensor)| TensorSummary {
            name: stored.name.clone(),
            torchtune: tune.clone(),
            dtype: dtype_name(&stored.dtype),
            shape: stored.shape.clone(),
            file: self.files[stored.parts[0].file].clone(),
        };
        self.tensors.iter().map(line).collect()
    }

    /// The folder that `config.json` and `preprocessor_config.json` would lie in.
    pub fn folder(&self) -> &Path {
        if self.path.is_dir() {
            return &self.path;
        }
        // The parent of a bare file name is the empty path.
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Reads the configuration beside the weights.
    ///
    /// # Errors
    /// [`CheckpointError::NoConfig`] where there is none, and those of [`EncoderConfig::from_file`].
    pub fn config(&self) -> Result<EncoderConfig> {
        let file = self.folder().join("config.json");
        if !file.is_file() {
            return Err(CheckpointError::NoConfig { path: self.folder().to_path_buf() }.into());
        }
        EncoderConfig::from_file(&file)
    }

    /// What makes tiles of pictures for `config`'s encoder, with the mean and standard deviation of the
    /// `preprocessor_config.json` beside the weights, if there is one.
    ///
    /// # Errors
    /// Those of [`Preprocessor::new`] and [`Preprocessor::with_config_file`].
    pub fn preprocessor(&self, config: &EncoderConfig, preprocess: Preprocess) -> Result<Preprocessor> {
        let preprocessor = Preprocessor::new(config, preprocess)?;
        let file = self.folder().join("preprocessor_config.json");
        if file.is_file() { preprocessor.with_config_file(&file) } else { Ok(preprocessor) }
    }

    /// Reads the headers of `files` and keeps the encoder's tensors. With `ranks`, each file is one of Meta's
    /// model-parallel ranks and holds a part of every tensor.
    fn from_files(path: &Path, files: Vec<PathBuf>, ranks: bool) -> Result<Self> {
        let mut gathering = Gathering::new(path, ranks);
        for file in files {
            gathering.add_file(file, |_| true)?;
        }
        gathering.finish()
    }

    /// Reads the headers of those shards of an index that hold the encoder's tensors.
    fn from_index(path: &Path, index: &Path) -> Result<Self> {
        let refuse = |reason: String| CheckpointError::Index { path: index.to_path_buf(), reason };
        let (shards, num_other_tensors) = read_index(index)?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut gathering = Gathering::new(path, false);
        gathering.num_other_tensors = num_other_tensors;
        for (shard, wanted) in &shards {
            let file = folder.join(shard);
            if !file.is_file() {
                return Err(refuse(format!(
                    "shard {shard} is missing, which holds {} of the encoder's tensors",
                    wanted.len()
                ))
                .into());
            }
            let mut found = gathering.add_file(file, |name| wanted.contains(name))?;
            found.sort();
            if let Some(name) = wanted.iter().find(|name| found.binary_search_by(|f| f.as_str().cmp(name)).is_err()) {
                return Err(refuse(format!("{name} is said to be in {shard}, which does not hold it")).into());
            }
        }
        gathering.finish()
    }

    /// The type that the output matrix is stored in, which the plans go by; bf16 where it is none that is read.
    #[cfg(feature = "cli")]
    pub(crate) fn projection_dtype(&self) -> Dtype {
        let stored = self.stored("projection.output.weight");
        stored.and_then(|stored| stored.dtype.clone().ok()).unwrap_or(Dtype::Bf16)
    }

    /// All tensors, by torchtune name. They are read unless somebody has them, or another thread is reading them.
    fn read(&self) -> Result<Arc<BTreeMap<String, Tensor>>> {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = known.upgrade() {
            return Ok(read);
        }
        let read = Arc::new(stored::read_all(&self.tensors)?);
        *known = Arc::downgrade(&read);
        Ok(read)
    }

    /// The stored form of a tensor, by torchtune name.
    fn stored(&self, tune: &str) -> Option<&StoredTensor> {
        self.tensors.get(tune)
    }
}

/// An element type as safetensors files name it.
fn dtype_name(dtype: &std::result::Result<Dtype, String>) -> String {
    dtype.as_ref().map_or_else(Clone::clone, |dtype| dtype.safetensors_name().to_string())
}

/// The shards of an index that hold tensors of the encoder, each with their names; and how many tensors are others'.
fn read_index(index: &Path) -> Result<(BTreeMap<String, BTreeSet<String>>, usize)> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let refuse = |reason: String| CheckpointError::Index { path: index.to_path_buf(), reason };
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let Index { weight_map } = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
    let mut num_other_tensors = 0;
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, shard) in weight_map {
        if names::recognise(&name).is_none() {
            num_other_tensors += 1;
            continue;
        }
        // A shard lies beside its index; anything else would let an index open files of its choice.
        if Path::new(&shard).file_name() != Some(std::ffi::OsStr::new(&shard)) {
            return Err(refuse(format!("{name} is said to be in {shard:?}, which is not a file name")).into());
        }
        shards.entry(shard).or_default().insert(name);
    }
    Ok((shards, num_other_tensors))
}

/// PyTorch's own files are Python pickles.
fn is_pickle(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| ["pth", "pt", "bin", "ckpt", "pkl"].contains(&e))
}

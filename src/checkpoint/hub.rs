//! Checkpoints by name, from the Hugging Face Hub: only the configuration and the shards that hold tensors of the
//! encoder are fetched, into the Hub's usual cache, where the next run finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClientSync, HFError};

use super::names;
use crate::error::{CheckpointError, Error, Result};

/// Told about a transfer: the file, its bytes so far and its bytes in all.
pub trait Transfer: Send + Sync {
    /// Some bytes of `file` have arrived. `total` is 0 where it is not known.
    fn progress(&self, file: &str, completed: u64, total: u64);
}

/// `OWNER/NAME`, if that is what the path looks like.
pub fn repository_name(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (owner, name) = text.split_once('/')?;
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c))
    };
    (is_word(owner) && is_word(name)).then_some(text)
}

/// Fetches what the encoder needs of a model and returns the folder it lies in. The token of a gated model is taken
/// from `HF_TOKEN` or from where the Hub's own tools keep it.
///
/// # Errors
/// [`Error::Hub`]; [`CheckpointError::Index`] and [`CheckpointError::NotAnEncoder`] where the model is another one.
pub fn fetch<T: Transfer + Clone + 'static>(model: &str, transfer: &T) -> Result<PathBuf> {
    let (owner, name) = model.split_once('/').unwrap_or(("", model));
    let refuse = |error: HFError| Error::Hub { model: model.to_string(), reason: reason(&error) };
    let client = HFClientSync::new().map_err(refuse)?;
    let repository = client.model(owner, name);
    let download = |file: &str| {
        let handler = Handler { file: file.to_string(), transfer: transfer.clone() };
        repository.download_file().filename(file).progress(handler).send()
    };
    let optional = |file: &str| match download(file) {
        Ok(path) => Ok(Some(path)),
        Err(HFError::EntryNotFound { .. }) => Ok(None),
        Err(error) => Err(refuse(error)),
    };
    let config = download("config.json").map_err(refuse)?;
    optional("preprocessor_config.json")?;
    match optional("model.safetensors.index.json")? {
        Some(index) => {
            for shard in shards(&index)? {
                download(&shard).map_err(refuse)?;
            }
        }
        None => drop(download("model.safetensors").map_err(refuse)?),
    }
    Ok(config.parent().unwrap_or(Path::new(".")).to_path_buf())
}

/// The shards that hold tensors of the encoder.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let refuse = |e: serde_json::Error| CheckpointError::Index { path: index.to_path_buf(), reason: e.to_string() };
    let Index { weight_map } = serde_json::from_str(&text).map_err(refuse)?;
    let num_tensors = weight_map.len();
    let ours = weight_map.into_iter().filter(|(name, _)| names::recognise(name).is_some());
    let shards: BTreeSet<String> = ours.map(|(_, shard)| shard).collect();
    if shards.is_empty() {
        return Err(CheckpointError::NotAnEncoder { path: index.to_path_buf(), num_tensors }.into());
    }
    Ok(shards)
}

/// What the Hub said, and what to do about it.
fn reason(error: &HFError) -> String {
    let remedy = match error {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            "; the model is gated: accept its licence on its page and set HF_TOKEN"
        }
        HFError::RepoNotFound { .. } => "; is the name right, and is HF_TOKEN set if the model is private?",
        _ => "",
    };
    format!("{error}{remedy}")
}

/// Passes the client's events on.
struct Handler<T> {
    file: String,
    transfer: T,
}

impl<T: Transfer> ProgressHandler for Handler<T> {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Start { total_bytes, .. }) => {
                self.transfer.progress(&self.file, 0, *total_bytes);
            }
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                for file in files {
                    self.transfer.progress(&self.file, file.bytes_completed, file.total_bytes);
                }
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, total_bytes, .. }) => {
                self.transfer.progress(&self.file, *bytes_completed, *total_bytes);
            }
            _ => {}
        }
    }
}

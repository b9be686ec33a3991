//! Checkpoints by name, from the Hugging Face Hub: only the configuration and the shards that hold tensors of the
//! encoder are fetched, into the Hub's usual cache, where the next run finds them.

use std::path::{Path, PathBuf};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClientSync, HFError};

use super::read_index;
use crate::error::{CheckpointError, Error, Result};

/// Told about a transfer: the file, its bytes so far and its bytes in all.
pub trait Transfer: Send + Sync {
    /// Some bytes of `file` have arrived. `total` is 0 where it is not known.
    fn progress(&self, file: &str, completed: u64, total: u64);
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
            let (shards, num_tensors) = read_index(&index)?;
            if shards.is_empty() {
                return Err(CheckpointError::NotAnEncoder { path: index, num_tensors }.into());
            }
            for shard in shards.keys() {
                download(shard).map_err(refuse)?;
            }
        }
        None => drop(download("model.safetensors").map_err(refuse)?),
    }
    Ok(config.parent().unwrap_or(Path::new(".")).to_path_buf())
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

//! Plans: sound for any batch, and as large as the specification says.

mod published;
mod random_batches;
mod soundness;

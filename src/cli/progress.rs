//! Progress bars, on standard error and only where a person is looking.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `len` things of some kind.
pub(super) fn bar(len: u64, what: &'static str) -> ProgressBar {
    let template = "{prefix:>9} [{bar:32}] {pos}/{len} {wide_msg} {elapsed} eta {eta}";
    styled(len, template).with_prefix(what)
}

/// A sign of life of work whose length nobody knows.
pub(super) fn spinner(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>9} {spinner} {wide_msg} {elapsed}");
    let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_prefix(what)
}

/// A bar over bytes.
pub(super) fn bytes_bar(len: u64, what: &'static str) -> ProgressBar {
    styled(
        len,
        "{prefix:>9} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} {wide_msg} {decimal_bytes_per_sec} eta {eta}",
    )
    .with_prefix(what)
}

/// A bar for each file of a transfer.
#[cfg(feature = "hub")]
#[derive(Clone)]
pub(super) struct Transfer(ProgressBar);

#[cfg(feature = "hub")]
impl Transfer {
    pub(super) fn new() -> Self {
        Self(bytes_bar(0, "fetching"))
    }
}

#[cfg(feature = "hub")]
impl crate::checkpoint::hub::Transfer for Transfer {
    fn progress(&self, file: &str, completed: u64, total: u64) {
        self.0.set_message(file.to_string());
        self.0.set_length(total);
        self.0.set_position(completed);
    }
}

fn styled(len: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(len).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

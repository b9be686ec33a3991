//! Progress bars, on standard error and only where a person is looking.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `len` things of some kind.
pub(super) fn bar(len: u64, what: &'static str) -> ProgressBar {
    let template = "{prefix:>9} [{bar:32}] {pos}/{len} {wide_msg} {elapsed} eta {eta}";
    styled(len, template).with_prefix(what)
}

/// A bar over bytes.
pub(super) fn bytes_bar(len: u64, what: &'static str) -> ProgressBar {
    styled(len, "{prefix:>9} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} eta {eta}")
        .with_prefix(what)
}

fn styled(len: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(len).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

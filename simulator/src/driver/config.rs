//! What the simulated machine is and what it does wrong on purpose: from the environment, or set by a test.

use std::env;
use std::str::FromStr;

use super::status::Status;
use crate::machine::DeviceModel;

/// As much as fits beside the host's own memory on a machine for development.
const DEFAULT_MEMORY_BYTES: u64 = 16 << 30;

/// The most devices that can be asked for.
pub(super) const MAX_DEVICES: usize = 4;

/// The machine, and its misfortunes.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// What every choice follows from.
    pub(super) seed: u64,
    /// How many devices there are.
    pub(super) num_devices: usize,
    /// What each of them is.
    pub(super) model: DeviceModel,
    /// Memory of each of them.
    pub(super) memory_bytes: u64,
    /// Work may be done as soon as it is given, rather than only when the host waits for it.
    pub(super) prompt: bool,
    /// This call, counted from 1, fails, and does nothing.
    pub(super) fail_call: Option<(u64, Status)>,
    /// Calls of this function fail, and do nothing.
    pub(super) fail_function: Option<(String, Status)>,
    /// This kernel, counted from 1 as they start, ends with an error that stays.
    pub(super) fail_launch: Option<(u64, Status)>,
    /// This kernel, counted likewise, never ends.
    pub(super) hang_launch: Option<u64>,
    /// Say on standard error what is alive when the process ends.
    pub(super) report: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            num_devices: 1,
            model: DeviceModel::AMPERE,
            memory_bytes: DEFAULT_MEMORY_BYTES,
            prompt: false,
            fail_call: None,
            fail_function: None,
            fail_launch: None,
            hang_launch: None,
            report: false,
        }
    }
}

impl Config {
    /// The defaults, but for what the variables `TILESIGHT_SIMULATOR_*` say. An error names the variable.
    pub(super) fn from_environment() -> Result<Self, String> {
        let mut config = Self::default();
        read("SEED", &mut config.seed, number)?;
        read("DEVICES", &mut config.num_devices, |text| number(text).filter(|&count| count <= MAX_DEVICES))?;
        read("COMPUTE_CAPABILITY", &mut config.model, model)?;
        read("MEMORY", &mut config.memory_bytes, number)?;
        read("PROMPT", &mut config.prompt, switch)?;
        read("FAIL_CALL", &mut config.fail_call, |text| pair(text).map(Some))?;
        read("FAIL_FUNCTION", &mut config.fail_function, |text| pair(text).map(Some))?;
        read("FAIL_LAUNCH", &mut config.fail_launch, |text| pair(text).map(Some))?;
        read("HANG_LAUNCH", &mut config.hang_launch, |text| number(text).map(Some))?;
        read("REPORT", &mut config.report, switch)?;
        Ok(config)
    }
}

/// Sets a value from its variable, if there is one.
fn read<T>(name: &str, value: &mut T, parse: impl FnOnce(&str) -> Option<T>) -> Result<(), String> {
    let name = format!("TILESIGHT_SIMULATOR_{name}");
    let Some(text) = env::var_os(&name) else { return Ok(()) };
    let parsed = text.to_str().and_then(parse);
    *value =
        parsed.ok_or_else(|| format!("{name} is {text:?}, which it cannot be; simulator/README.md lists what can"))?;
    Ok(())
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// `WHICH:STATUS`.
fn pair<T: FromStr>(text: &str) -> Option<(T, Status)> {
    let (which, status) = text.split_once(':')?;
    Some((number(which)?, Status(number(status)?)))
}

/// `MAJOR.MINOR`, of a device that there is a model of.
pub(super) fn model(text: &str) -> Option<DeviceModel> {
    match text {
        "8.0" => Some(DeviceModel::AMPERE),
        "9.0" => Some(DeviceModel::HOPPER),
        _ => None,
    }
}

//! Which tiles a matrix operation takes. All that are chosen among give the same bits, so the choice is one of time alone:
//! it is measured on the GPU, once for each shape, and kept on disk for the next start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::driver::{DeviceModel, list_devices};
use super::fatbin;
use super::ops;
use crate::digest::Fields;
use crate::plan::{Form, Op, Plan, Step};

/// How much faster a tiling must have been than those before it, whose tiles are larger and move less.
const MARGIN: f64 = 0.99;

/// The choices for one GPU, driver and build.
#[derive(Debug, Clone)]
pub(crate) struct Tuning {
    /// Where they are kept; nowhere where the machine has no place for it.
    path: Option<PathBuf>,
    kept: Kept,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    gpu: String,
    driver: String,
    build: String,
    /// By operation and shape, as [`key`] writes them.
    choices: BTreeMap<String, Measured>,
}

/// What was measured of one operation on one shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The tiling that is taken.
    pub(crate) tiling: String,
    /// The time of a launch with each tiling.
    pub(crate) microseconds: BTreeMap<String, f64>,
}

/// An operation and its shape; none for a step that has no tiles to choose.
fn key(plan: &Plan, step: &Step) -> Option<String> {
    if tilings(plan, step).len() < 2 {
        return None;
    }
    let ([rows, inputs, outputs], form) = (shape(plan, step)?, step.form?);
    // Layers of one shape are alike.
    let name = step.name.rsplit('.').next()?;
    Some(format!("{form} {} {name} {rows}x{inputs}x{outputs}", plan.target.precision.activations))
}

/// The names of the tilings that a step may take, in the order of their numbers; none where it has no tiles. All give the
/// same bits.
pub(super) fn tilings(plan: &Plan, step: &Step) -> Vec<&'static str> {
    let variants = attention_variants(plan, step).filter(|variant| !variant.is_for_sweeps);
    product_tilings(step).iter().copied().chain(variants.map(|variant| variant.name)).collect()
}

/// The same, and after them those that are there to be compared alone.
pub(super) fn tilings_of_sweep(plan: &Plan, step: &Step) -> Vec<&'static str> {
    let variants = attention_variants(plan, step);
    product_tilings(step).iter().copied().chain(variants.map(|variant| variant.name)).collect()
}

fn product_tilings(step: &Step) -> &'static [&'static str] {
    step.form.filter(|_| !matches!(step.op, Op::Attention { .. })).map_or(&[], ops::tilings)
}

/// The kernels that can carry out a step of attention on the groups that the plan has.
fn attention_variants(plan: &Plan, step: &Step) -> impl Iterator<Item = &'static ops::AttentionVariant> + use<> {
    let tiling = plan.target.attention_tiling(&plan.config).filter(|_| matches!(step.op, Op::Attention { .. }));
    let columns = plan.target.head_columns(&plan.config);
    tiling.into_iter().flat_map(move |tiling| ops::attention_variants(columns, tiling))
}

/// The name of the tiling that a step takes where nothing was measured; none where it has no tiles.
fn predicted(plan: &Plan, step: &Step, num_multiprocessors: u32) -> Option<&'static str> {
    match step.op {
        Op::Attention { .. } => tilings(plan, step).first().copied(),
        _ => ops::predicted_tiling(step.form?, shape(plan, step)?, num_multiprocessors),
    }
}

/// Rows of a matrix operation, and what a row has before and after; none where a step is no such operation.
fn shape(plan: &Plan, step: &Step) -> Option<[usize; 3]> {
    let output = plan.buffer(step.op.writes());
    match &step.op {
        Op::Projection { head, hidden, .. } => {
            let inputs = plan.buffer(*head).width * (1 + hidden.len());
            Some([plan.capacity.projected_rows, inputs, output.width])
        }
        Op::PatchEmbedding { input, .. }
        | Op::LayerNormLinear { input, .. }
        | Op::Attention { input, .. }
        | Op::LinearResidual { input, .. } => Some([output.rows, plan.buffer(*input).width, output.width]),
        Op::Patchify { .. } | Op::TilePosition { .. } | Op::TileNorm { .. } => None,
    }
}

/// The kernel of each step of a plan for the first GPU of this machine, or, without one, for one of 132 multiprocessors:
/// form, and tiles where there is a choice; and what those tiles were chosen by. A plan for the CPU has none.
pub(crate) fn kernels(plan: &Plan) -> (Vec<String>, Option<String>) {
    if plan.target.form == Form::Cpu {
        return (vec!["-".to_string(); plan.steps.len()], None);
    }
    let model = list_devices().ok().and_then(|models| models.into_iter().next());
    let tuning = model.as_ref().map(Tuning::open);
    let num_multiprocessors = model.as_ref().map_or(132, |model| model.num_multiprocessors);
    let mut num_measured = 0;
    let mut kernel = |step: &Step| -> String {
        let Some(form) = step.form else { return "-".to_string() };
        let measured = tuning.as_ref().and_then(|tuning| tuning.measured(plan, step));
        num_measured += usize::from(measured.is_some());
        let predicted = || predicted(plan, step, num_multiprocessors).map(str::to_string);
        let tiling = measured.map(|measured| measured.tiling.clone()).or_else(predicted);
        tiling.map_or_else(|| form.to_string(), |tiling| format!("{form} {tiling}"))
    };
    let kernels: Vec<String> = plan.steps.iter().map(&mut kernel).collect();
    let gpu = model.map_or("no GPU is here".to_string(), |model| model.name);
    let source = match num_measured {
        0 => format!("tiles as predicted for {num_multiprocessors} multiprocessors ({gpu})"),
        _ => format!("tiles of {num_measured} steps as measured on {gpu}, the others as predicted"),
    };
    (kernels, Some(source))
}

impl Tuning {
    /// What is kept for this GPU, driver and build in the user's folder for caches; nothing where nothing is. A file that
    /// cannot be read, or is another's, counts as nothing: the next choice replaces it.
    pub(crate) fn open(model: &DeviceModel) -> Self {
        Self::open_in(cache_folder().as_deref(), model, driver_version(), fatbin::build())
    }

    fn open_in(folder: Option<&Path>, model: &DeviceModel, driver: String, build: String) -> Self {
        let gpu = format!("{}, {} multiprocessors", model.name, model.num_multiprocessors);
        let fresh = Kept { gpu, driver, build, choices: BTreeMap::new() };
        let mut fields = Fields::of("tiles");
        [&fresh.gpu, &fresh.driver, &fresh.build].into_iter().for_each(|field| fields.add(field));
        let path = folder.map(|folder| folder.join(format!("tiles-{:.16}.json", fields.finish().to_string())));
        let read = |path: &PathBuf| serde_json::from_slice::<Kept>(&fs::read(path).ok()?).ok();
        let same = |kept: &Kept| [&kept.gpu, &kept.driver, &kept.build] == [&fresh.gpu, &fresh.driver, &fresh.build];
        let kept = path.as_ref().and_then(read).filter(same).unwrap_or(fresh);
        Self { path, kept }
    }

    /// What was measured of a step; none where nothing was.
    pub(crate) fn measured(&self, plan: &Plan, step: &Step) -> Option<&Measured> {
        self.kept.choices.get(&key(plan, step)?)
    }

    /// The number of the tiling that a step takes; none where nothing was measured, and the prediction decides.
    pub(crate) fn tiling(&self, plan: &Plan, step: &Step) -> Option<usize> {
        let measured = self.measured(plan, step)?;
        tilings(plan, step).iter().position(|tiling| *tiling == measured.tiling)
    }

    /// Whether a step is of an operation and shape that was measured, or has nothing to measure.
    pub(crate) fn knows(&self, plan: &Plan, step: &Step) -> bool {
        key(plan, step).is_none_or(|key| self.kept.choices.contains_key(&key))
    }

    /// Takes the fastest tiling for a step, the first of those that chance alone tells apart; `seconds` are those of a launch
    /// with each.
    pub(crate) fn choose(&mut self, plan: &Plan, step: &Step, seconds: &[f64]) {
        let Some(key) = key(plan, step) else { return };
        let tilings = tilings(plan, step);
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let chosen = seconds.iter().position(|time| time * MARGIN <= least).unwrap_or(0);
        let microseconds = tilings.iter().zip(seconds).map(|(name, time)| ((*name).to_string(), time * 1e6)).collect();
        self.kept.choices.insert(key, Measured { tiling: tilings[chosen].to_string(), microseconds });
    }

    /// Writes the file anew; whoever reads it meanwhile finds the old one or the new one, whole.
    ///
    /// # Errors
    /// Those of the file system. Nothing but the next start's time depends on it.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &self.kept)?;
        file.persist(path)?;
        Ok(())
    }
}

/// `TILESIGHT_CACHE_DIR`, else tilesight's folder in the user's folder for caches.
fn cache_folder() -> Option<PathBuf> {
    let named = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("TILESIGHT_CACHE_DIR")
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("tilesight")))
        .or_else(|| Some(named("HOME")?.join(".cache").join("tilesight")))
}

/// The driver's release, as its kernel module tells it.
pub(super) fn driver_version() -> String {
    let text = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{TileBlocks, demo_config};
    use crate::dtype::Dtype;
    use crate::plan::{BatchShape, LayoutRules, Semantics, Target};

    /// The plan of an image of this many tiles.
    fn plan(num_tiles: usize) -> Plan {
        plan_in(Form::Portable, num_tiles)
    }

    fn plan_in(form: Form, num_tiles: usize) -> Plan {
        let config = demo_config();
        let grid = TileBlocks::grid(config.max_num_tiles);
        let rules = LayoutRules {
            config: &config,
            semantics: Semantics::Torchtune,
            blocks: Some(&grid),
            blocks_are_equal: &|a, b| a == b,
            collapse: true,
        };
        let batch = BatchShape { images: vec![rules.picture([1, num_tiles], 0).unwrap()] };
        Plan::build(&config, &batch, Target::cuda(Dtype::Bf16, form)).unwrap()
    }

    fn step<'a>(plan: &'a Plan, name: &str) -> &'a Step {
        plan.steps.iter().find(|step| step.name == name).unwrap()
    }

    fn open(folder: &Path, build: &str) -> Tuning {
        let model =
            DeviceModel { name: "a GPU".into(), capability: (8, 0), num_multiprocessors: 108, total_bytes: 1 << 30 };
        Tuning::open_in(Some(folder), &model, "a driver".into(), build.into())
    }

    #[test]
    fn choices_are_kept_for_the_same_build_and_shape_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (plan, other) = (plan(1), plan(2));
        let fc1 = step(&plan, "transformer.0.fc1");
        let mut tuning = open(folder.path(), "this build");
        assert_eq!(tuning.tiling(&plan, fc1), None);
        tuning.choose(&plan, fc1, &[3e-6, 2e-6, 4e-6]);
        assert_eq!(tuning.tiling(&plan, fc1), Some(1));
        assert_eq!(tuning.tiling(&plan, step(&plan, "transformer.1.fc1")), Some(1), "layers are alike");
        assert_eq!(tuning.tiling(&plan, step(&plan, "transformer.0.fc2")), None);
        assert_eq!(tuning.tiling(&other, step(&other, "transformer.0.fc1")), None);
        tuning.keep().unwrap();

        let kept = open(folder.path(), "this build");
        assert_eq!(kept.tiling(&plan, fc1), Some(1));
        assert_eq!(kept.measured(&plan, fc1).unwrap().microseconds.len(), 3);
        assert_eq!(open(folder.path(), "another build").tiling(&plan, fc1), None);
        let path = kept.path.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing lies beside the file");
        let text = fs::read_to_string(&path).unwrap();
        for damaged in ["", "{}", &text[..text.len() / 2], &text.replace("a driver", "another driver")] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(open(folder.path(), "this build").tiling(&plan, fc1), None, "{damaged}");
        }
    }

    #[test]
    fn a_larger_tile_yields_to_what_is_faster_by_more_than_chance() {
        let plan = plan(1);
        let out = step(&plan, "transformer.0.out");
        let mut tuning = Tuning::open_in(None, &DeviceModel::default(), String::new(), String::new());
        tuning.choose(&plan, out, &[1.005, 1.0, 1.0]);
        assert_eq!(tuning.tiling(&plan, out), Some(0));
        tuning.choose(&plan, out, &[1.1, 1.05, 1.0]);
        assert_eq!(tuning.tiling(&plan, out), Some(2));
        tuning.keep().unwrap();
    }

    #[test]
    fn what_has_no_tiles_to_choose_has_nothing_to_measure() {
        let plan = plan(1);
        let tuning = Tuning::open_in(None, &DeviceModel::default(), String::new(), String::new());
        for step in &plan.steps {
            let has_tiles = !matches!(
                step.op,
                Op::Patchify { .. } | Op::TilePosition { .. } | Op::TileNorm { .. } | Op::Attention { .. }
            );
            assert_eq!(tuning.knows(&plan, step), !has_tiles, "{}", step.name);
        }
    }

    #[test]
    fn no_attention_is_chosen_by_its_time_that_gives_other_bits_or_is_for_sweeps() {
        let plan = plan_in(Form::Hopper, 1);
        let attention = step(&plan, "transformer.0.attention");
        let mut tuning = Tuning::open_in(None, &DeviceModel::default(), String::new(), String::new());
        assert!(!tuning.knows(&plan, attention));
        assert_eq!(tilings(&plan, attention), ["192x112", "192x112 mixed"]);
        assert_eq!(tilings_of_sweep(&plan, attention), ["192x112", "192x112 mixed", "192x112 always"]);
        tuning.choose(&plan, attention, &[1.1, 1.0]);
        assert_eq!(tuning.tiling(&plan, attention), Some(1));
        let others = plan.target.with_attention(ops::attention_tilings(80)[1]);
        let others = Plan::with_capacity(&plan.config, &plan.batch, plan.capacity, others).unwrap();
        let attention = step(&others, "transformer.0.attention");
        assert_eq!(tilings(&others, attention), [""; 0]);
        assert_eq!(tilings_of_sweep(&others, attention), ["128x176", "128x176 mixed"]);
        assert!(tuning.knows(&others, attention) && tuning.tiling(&others, attention).is_none());
    }
}

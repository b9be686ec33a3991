//! The plan is sound for any encoder and any ragged batch: memory is never shared by what is live at once, every read
//! finds what the model means it to find, and rows, multiplicities and FLOPs are those of the closed forms.

use std::collections::HashMap;

use proptest::prelude::*;
use tilesight::Dtype;
use tilesight::plan::{
    BufferId, Capacity, Form, LayerId, NormLinear, Op, Place, Plan, ResidualLinear, Rows, Semantics, Stack, Step,
};

use crate::random_batches::{Batch, any_batch};

/// The steps of the model in their order, as the specification has them.
fn expected_names(batch: &Batch) -> Vec<String> {
    let layer = |stack: &str, index: usize| {
        ["qkv", "attention", "out", "fc1", "fc2"].map(|step| format!("{stack}.{index}.{step}"))
    };
    let mut names = vec!["patchify".to_string(), "patch_embedding".to_string(), "tile_position".to_string()];
    names.extend((0..batch.config.clip_num_layers).flat_map(|index| layer("transformer", index)));
    names.push("tile_norm".to_string());
    names.extend((0..batch.config.num_layers_projection).flat_map(|index| layer("global_transformer", index)));
    names.push("projection".to_string());
    names
}

fn range(plan: &Plan, id: BufferId) -> Option<(usize, usize)> {
    let buffer = plan.buffer(id);
    match buffer.place {
        Place::Arena { offset } => Some((offset, offset + buffer.bytes)),
        Place::Pixels | Place::Embeddings => None,
    }
}

fn overlap(plan: &Plan, a: BufferId, b: BufferId) -> bool {
    let (Some((a, a_end)), Some((b, b_end))) = (range(plan, a), range(plan, b)) else { return false };
    a < b_end && b < a_end
}

/// Every buffer a step touches.
fn touched(step: &Step) -> Vec<BufferId> {
    step.op.reads().into_iter().chain([step.op.writes()]).chain(step.beside.buffers()).collect()
}

/// Walks the plan as a machine would and returns, for each step, which steps wrote what it reads. A buffer whose memory
/// another one has taken since holds nothing.
fn writers(plan: &Plan) -> Vec<Vec<String>> {
    let mut holds: HashMap<BufferId, String> = HashMap::new();
    let mut found = Vec::new();
    for step in &plan.steps {
        let read = |id: BufferId| match plan.buffer(id).place {
            Place::Pixels => "the caller".to_string(),
            _ => holds.get(&id).cloned().unwrap_or_else(|| format!("nobody ({})", plan.buffer(id).name)),
        };
        let norm = matches!(step.op, Op::LayerNormLinear { .. });
        let moments = step.beside.moments.filter(|_| norm);
        found.push(step.op.reads().into_iter().chain(moments).map(read).collect());
        let scratch = touched(step).into_iter().filter(|id| !step.op.reads().contains(id) && Some(*id) != moments);
        let written: Vec<BufferId> = std::iter::once(step.op.writes()).chain(scratch).collect();
        for output in written {
            holds.retain(|id, _| *id == output || !overlap(plan, *id, output));
            holds.insert(output, step.name.clone());
        }
    }
    found
}

/// Which steps the model means each step to read from.
fn expected_writers(batch: &Batch, plan: &Plan) -> Vec<Vec<String>> {
    let config = &plan.config;
    let state = |stack: &str, index: usize, first: &str| match index {
        0 => first.to_string(),
        _ => format!("{stack}.{}.fc2", index - 1),
    };
    let transformer = |index: usize| state("transformer", index, "tile_position");
    let head = |index: usize| state("global_transformer", index, "tile_norm");
    let stream = |layer: LayerId| match layer.stack {
        Stack::Transformer => transformer(layer.index),
        Stack::GlobalTransformer => head(layer.index),
    };
    let reads = |op: &Op| match op {
        Op::Patchify { .. } => vec!["the caller".to_string()],
        Op::PatchEmbedding { .. } => vec!["patchify".to_string()],
        Op::TilePosition { .. } => vec!["patch_embedding".to_string()],
        Op::LayerNormLinear { layer, part: NormLinear::Qkv, .. } => vec![stream(*layer)],
        Op::Attention { layer, .. } => vec![format!("{layer}.qkv")],
        Op::LinearResidual { layer, part: ResidualLinear::Out, .. } => {
            vec![format!("{layer}.attention"), stream(*layer)]
        }
        Op::LayerNormLinear { layer, part: NormLinear::Fc1, .. } => vec![format!("{layer}.out")],
        Op::LinearResidual { layer, part: ResidualLinear::Fc2, .. } => {
            vec![format!("{layer}.fc1"), format!("{layer}.out")]
        }
        Op::TileNorm { .. } => vec![transformer(config.clip_num_layers)],
        Op::Projection { .. } => {
            let hidden = batch.config.clip_hidden_states.iter().map(|index| transformer(*index as usize));
            std::iter::once(head(config.num_layers_projection)).chain(hidden).collect()
        }
    };
    // A norm that is folded into its matrix reads the moments that the stream's writer left.
    let folded = batch.target.form.folds_norms();
    let all = |step: &Step| {
        let reads = reads(&step.op);
        let moments = reads.first().cloned().filter(|_| folded && matches!(step.op, Op::LayerNormLinear { .. }));
        reads.into_iter().chain(moments).collect()
    };
    plan.steps.iter().map(all).collect()
}

/// Rows a sequence stands for: each times its multiplicity.
fn num_rows(rows: &Rows) -> usize {
    rows.len + rows.multiples.iter().map(|m| m.rows.len() * (m.multiplicity - 1)).sum::<usize>()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn every_read_finds_what_the_model_means(batch in any_batch()) {
        let plan = batch.plan();
        let names: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
        prop_assert_eq!(names, expected_names(&batch));
        prop_assert_eq!(writers(&plan), expected_writers(&batch, &plan));
    }

    #[test]
    fn what_is_live_at_once_lies_apart(batch in any_batch()) {
        let plan = batch.plan();
        for (id, buffer) in plan.buffers.iter().enumerate() {
            let touches = |step: &Step| touched(step).contains(&BufferId(id));
            prop_assert_eq!(plan.steps.iter().position(touches), Some(buffer.first_use), "{}", &buffer.name);
            prop_assert_eq!(plan.steps.iter().rposition(touches), Some(buffer.last_use), "{}", &buffer.name);
            prop_assert_eq!(buffer.bytes, buffer.rows * buffer.stride * buffer.dtype.size(), "{}", &buffer.name);
            prop_assert!(buffer.width <= buffer.stride);
            if batch.target.form != Form::Cpu && buffer.dtype != Dtype::F32 && buffer.place != Place::Embeddings {
                prop_assert!((buffer.stride * buffer.dtype.size()).is_multiple_of(16), "{}", &buffer.name);
            }
            let Some((start, end)) = range(&plan, BufferId(id)) else { continue };
            prop_assert!(start.is_multiple_of(Plan::ALIGNMENT), "{} at {}", &buffer.name, start);
            prop_assert!(end <= plan.arena_bytes, "{} ends at {} of {}", &buffer.name, end, plan.arena_bytes);
            for (other, later) in plan.buffers.iter().enumerate().skip(id + 1) {
                let together = buffer.first_use <= later.last_use && later.first_use <= buffer.last_use;
                prop_assert!(
                    !(together && overlap(&plan, BufferId(id), BufferId(other))),
                    "{} and {} share memory", &buffer.name, &later.name
                );
            }
        }
    }

    #[test]
    fn a_step_writes_beside_what_it_reads(batch in any_batch()) {
        for step in &batch.plan().steps {
            let output = step.op.writes();
            match &step.op {
                // The residual stream is added to in place, unless it is kept.
                Op::LinearResidual { input, .. } => prop_assert_ne!(*input, output, "{}", &step.name),
                op => prop_assert!(!op.reads().contains(&output), "{}", &step.name),
            }
            let mut all = touched(step);
            all.sort();
            all.dedup();
            let in_place = step.op.reads().contains(&output);
            prop_assert_eq!(all.len() + usize::from(in_place), touched(step).len(), "{}", &step.name);
        }
    }

    #[test]
    fn every_row_is_computed_or_stood_for(batch in any_batch()) {
        let config = &batch.config;
        let tokens = config.num_tokens();
        let meta = batch.semantics == Semantics::Meta;
        let alignment = if meta { config.num_alignment_rows() } else { 0 };
        for (image, shape) in batch.shape().images.iter().zip(&batch.images) {
            let num_tiles = shape.tiles.len();
            prop_assert_eq!(image.tiles.iter().map(|tile| tile.multiplicity).sum::<usize>(), num_tiles);
            prop_assert_eq!(image.alignment.iter().map(|a| a.rows * a.multiplicity).sum::<usize>(), num_tiles * alignment);
            let [height, width] = shape.aspect_ratio;
            let num_real = match batch.has_tables {
                true if meta => (height * width).max(1),
                true => height * width,
                false => num_tiles,
            };
            // Tiles in the aspect ratio are never stood for by others.
            prop_assert!(image.tiles[..num_real].iter().all(|tile| tile.multiplicity == 1));
            prop_assert!((0..num_real).all(|tile| image.tiles[tile].source == shape.tiles[tile]));
            for stack in [Stack::Transformer, Stack::GlobalTransformer] {
                let rows = image.rows(stack);
                prop_assert_eq!(num_rows(rows), num_tiles * (tokens + alignment));
                let all_seeing = if meta { num_real * tokens } else { rows.len };
                prop_assert_eq!(rows.all_seeing, all_seeing);
                prop_assert!(!meta || rows.multiples.iter().all(|multiple| multiple.rows.start >= all_seeing));
                prop_assert!(rows.multiples.is_sorted_by_key(|multiple| multiple.rows.start));
                if !batch.collapse {
                    prop_assert!(rows.multiples.is_empty() && rows.len == num_tiles * (tokens + alignment));
                }
            }
            // Each tile of the output is the computed tile with its pixels and its place.
            let num_output = if shape.padding_output { num_tiles } else { num_real };
            prop_assert_eq!(image.num_output_tiles(), num_output);
            for (tile, &computed) in image.output.iter().enumerate() {
                prop_assert_eq!(image.tiles[computed].source, shape.tiles[tile]);
                prop_assert_eq!(image.tiles[computed].block.is_some(), batch.block(shape, tile).is_some());
            }
        }
    }

    #[test]
    fn a_plan_with_room_for_more_has_room(batch in any_batch()) {
        let exact = batch.plan();
        let capacity = exact.capacity.rounded_up();
        prop_assert!(capacity.covers(&exact.capacity));
        prop_assert!(exact.capacity.covers(&Capacity::of(&batch.config, &batch.shape(), batch.target)));
        prop_assert_eq!(capacity.rounded_up(), capacity);
        prop_assert!(capacity.rows.iter().zip(exact.capacity.rows).all(|(more, rows)| *more <= rows + rows / 4));
        let roomy = Plan::with_capacity(&batch.config, &batch.shape(), capacity, batch.target).unwrap();
        prop_assert_eq!(roomy.flops(), exact.flops());
        for (roomy, exact) in roomy.buffers.iter().zip(&exact.buffers) {
            prop_assert!(roomy.rows >= exact.rows && roomy.width == exact.width, "{}", &exact.name);
        }
    }

    #[test]
    fn flops_are_those_of_the_closed_form(batch in any_batch()) {
        let batch = Batch { collapse: false, ..batch };
        let config = &batch.config;
        let [width, tokens, layers] = [config.clip_embed_dim, config.num_tokens(), config.clip_num_layers + config.num_layers_projection].map(|x| x as u64);
        let meta = batch.semantics == Semantics::Meta;
        let mut expected = 0;
        for (image, shape) in batch.shape().images.iter().zip(&batch.images) {
            let num_tiles = shape.tiles.len() as u64;
            let per_tile = if meta { tokens.next_multiple_of(8) } else { tokens };
            let rows = num_tiles * per_tile;
            let padding = if meta { rows - image.transformer.all_seeing as u64 } else { 0 };
            let scores = rows * rows - padding * padding;
            expected += 2 * num_tiles * config.num_patches() as u64 * config.patch_len() as u64 * width;
            expected += layers * (24 * rows * width * width + 4 * scores * width);
            let output = image.num_output_tiles() as u64 * tokens;
            expected += 2 * output * config.projection_dim() as u64 * config.decoder_embed_dim as u64;
        }
        prop_assert_eq!(batch.plan().flops(), expected);
    }
}

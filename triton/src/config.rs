//! A model's configuration (`config.pbtxt`, which the server hands on as JSON): completed where it says nothing, and held
//! against what is served.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tilesight::{Dtype, EncoderConfig};

use crate::api::DataType;
use crate::parameters::Rows;
use crate::refusal::{Refusal, Result};

/// Pictures of a batch where the configuration does not say: as many as `tilesight serve` computes tiles together.
const MAX_BATCH_SIZE: i64 = 8;

/// The types that tiles and embeddings can have.
const FLOATS: [(&str, Dtype); 3] = [("TYPE_FP32", Dtype::F32), ("TYPE_FP16", Dtype::F16), ("TYPE_BF16", Dtype::Bf16)];

/// The configuration's fields that are looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    max_batch_size: i64,
    #[serde(default)]
    input: Vec<Tensor>,
    #[serde(default)]
    output: Vec<Tensor>,
    #[serde(default)]
    parameters: BTreeMap<String, Parameter>,
}

#[derive(Debug, Deserialize)]
struct Tensor {
    name: String,
    data_type: String,
    dims: Vec<i64>,
    #[serde(default)]
    optional: bool,
    reshape: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Parameter {
    #[serde(default)]
    string_value: String,
}

/// What a tensor must be.
struct Rule {
    name: &'static str,
    types: &'static [(&'static str, Dtype)],
    /// The type's name where it is none of an embedding's.
    fixed: Option<&'static str>,
    /// Without the pictures' dimension; -1 is a size that differs from request to request.
    dims: Vec<i64>,
}

impl Config {
    /// Reads the fields.
    pub(crate) fn of(json: &Value) -> Result<Self> {
        Self::deserialize(json).map_err(|e| Refusal::invalid(format!("the configuration cannot be read: {e}")))
    }

    /// The parameters, by name.
    pub(crate) fn parameters(&self) -> BTreeMap<String, String> {
        self.parameters.iter().map(|(name, value)| (name.clone(), value.string_value.clone())).collect()
    }

    /// Holds the configuration against what is served. Returns the element type of the embeddings, unless a request asks for
    /// another.
    pub(crate) fn check(&self, model: &EncoderConfig, rows: Rows) -> Result<Dtype> {
        if self.max_batch_size < 1 {
            let found = self.max_batch_size;
            return Err(Refusal::invalid(format!(
                "max_batch_size must be at least 1, for the first dimension of every tensor counts pictures; found {found}"
            )));
        }
        let named = |name: &str| self.input.iter().find(|input| input.name == name);
        for input in &self.input {
            input.check("input", &inputs(model), false)?;
        }
        for output in &self.output {
            output.check("output", &outputs(model, rows), true)?;
        }
        match (named("image"), named("pixels")) {
            (None, None) => return Err(Refusal::invalid("there must be an input image or pixels")),
            (Some(image), Some(pixels)) if !image.optional || !pixels.optional => {
                let message = "inputs image and pixels must both be optional, for a request has one of them";
                return Err(Refusal::invalid(message));
            }
            _ => {}
        }
        match named("aspect_ratio") {
            Some(_) if named("pixels").is_none() => {
                return Err(Refusal::invalid("input aspect_ratio belongs to pixels, which are not there"));
            }
            Some(ratio) if named("image").is_some() && !ratio.optional => {
                return Err(Refusal::invalid("input aspect_ratio must be optional, for pictures have none"));
            }
            _ => {}
        }
        if self.output.is_empty() {
            return Err(Refusal::invalid("there must be an output"));
        }
        let embeddings = self.output.iter().find(|output| output.name == "embeddings");
        Ok(embeddings.and_then(Tensor::float).unwrap_or(Dtype::F32))
    }
}

impl Tensor {
    fn float(&self) -> Option<Dtype> {
        FLOATS.iter().find(|(name, _)| *name == self.data_type).map(|(_, dtype)| *dtype)
    }

    /// Holds a tensor against the rules. A size that differs from request to request may be fixed in an input, which then
    /// is always so; in an output it may not.
    fn check(&self, kind: &str, rules: &[Rule], is_output: bool) -> Result<()> {
        let name = &self.name;
        let refuse = |reason: String| Err(Refusal::invalid(format!("{kind} {name}: {reason}")));
        let Some(rule) = rules.iter().find(|rule| rule.name == name) else {
            let names: Vec<&str> = rules.iter().map(|rule| rule.name).collect();
            return refuse(format!("there is no such {kind}; there are {}", names.join(", ")));
        };
        let types: Vec<&str> = rule.types.iter().map(|(name, _)| *name).chain(rule.fixed).collect();
        if !types.contains(&&self.data_type[..]) {
            return refuse(format!("data_type must be {}, found {}", types.join(" or "), self.data_type));
        }
        let fits =
            |(found, expected): (&i64, &i64)| *found == -1 || found == expected || (*expected == -1 && !is_output);
        if self.dims.len() != rule.dims.len() || !self.dims.iter().zip(&rule.dims).all(fits) {
            return refuse(format!("dims must be {:?}, or -1 for any of them; found {:?}", rule.dims, self.dims));
        }
        match &self.reshape {
            Some(_) => refuse("reshape is not possible".to_string()),
            None => Ok(()),
        }
    }
}

/// The inputs of a model; pictures have three channels.
fn inputs(model: &EncoderConfig) -> Vec<Rule> {
    let image = Rule { name: "image", types: &[], fixed: Some("TYPE_STRING"), dims: vec![1] };
    let side = model.tile_size as i64;
    let pixels =
        Rule { name: "pixels", types: &FLOATS, fixed: None, dims: vec![-1, model.in_channels as i64, side, side] };
    let aspect_ratio = Rule { name: "aspect_ratio", types: &[], fixed: Some("TYPE_INT64"), dims: vec![2] };
    let takes_pictures = model.in_channels == 3;
    takes_pictures.then_some(image).into_iter().chain([pixels, aspect_ratio]).collect()
}

fn outputs(model: &EncoderConfig, rows: Rows) -> Vec<Rule> {
    let rows = match rows {
        Rows::Max => (model.max_num_tiles * model.num_tokens()) as i64,
        Rows::Request => -1,
    };
    let width = model.decoder_embed_dim as i64;
    vec![
        Rule { name: "embeddings", types: &FLOATS, fixed: None, dims: vec![rows, width] },
        Rule { name: "num_tiles", types: &[], fixed: Some("TYPE_INT64"), dims: vec![1] },
        Rule { name: "aspect_ratio", types: &[], fixed: Some("TYPE_INT64"), dims: vec![2] },
    ]
}

/// Adds what a configuration leaves out: inputs, outputs, a batch size, dynamic batching. Returns whether it left out any.
pub(crate) fn complete(config: &mut Value, model: &EncoderConfig, rows: Rows) -> bool {
    let Some(fields) = config.as_object_mut() else { return false };
    let lacks = |fields: &serde_json::Map<String, Value>, name: &str| {
        fields.get(name).and_then(Value::as_array).is_none_or(Vec::is_empty)
    };
    let mut changed = false;
    let mut set = |fields: &mut serde_json::Map<String, Value>, name: &str, value: Value| {
        fields.insert(name.to_string(), value);
        changed = true;
    };
    let tensor = |rule: &Rule| {
        let data_type = rule.types.first().map(|(name, _)| *name).or(rule.fixed);
        json!({ "name": rule.name, "data_type": data_type, "dims": rule.dims })
    };
    let no_tensors = lacks(fields, "input") && lacks(fields, "output");
    if no_tensors && fields.get("max_batch_size").and_then(Value::as_i64).unwrap_or(0) == 0 {
        set(fields, "max_batch_size", json!(MAX_BATCH_SIZE));
    }
    if lacks(fields, "input") {
        let optional = |rule: &Rule| {
            let mut input = tensor(rule);
            input["optional"] = json!(true);
            // Requests with different numbers of tiles go into one batch.
            input["allow_ragged_batch"] = json!(rule.name == "pixels");
            input
        };
        let inputs = inputs(model).iter().map(optional).collect();
        set(fields, "input", inputs);
    }
    if lacks(fields, "output") {
        let outputs = outputs(model, rows).iter().map(tensor).collect();
        set(fields, "output", outputs);
    }
    let schedulers = ["dynamic_batching", "sequence_batching", "ensemble_scheduling"];
    if !schedulers.iter().any(|name| fields.contains_key(*name)) {
        set(fields, "dynamic_batching", json!({}));
    }
    changed
}

/// The server's number of an element type.
pub(crate) fn data_type(dtype: Dtype) -> DataType {
    match dtype {
        Dtype::F32 => DataType::FP32,
        Dtype::F16 => DataType::FP16,
        Dtype::Bf16 => DataType::BF16,
    }
}

/// The element type of the server's number.
pub(crate) fn dtype(data_type: DataType) -> Option<Dtype> {
    [Dtype::F32, Dtype::F16, Dtype::Bf16].into_iter().find(|dtype| self::data_type(*dtype) == data_type)
}

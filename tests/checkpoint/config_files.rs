//! Both forms of `config.json` are read, what they ask for beyond the encoder is refused, and no text makes the reader
//! panic.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tilesight::error::ConfigError;
use tilesight::{EncoderConfig, Error};

use crate::config::refusal;
use crate::golden_data::golden;
use crate::tiny_config::tiny_config as tiny;

fn parse(json: &Value) -> Result<EncoderConfig, Error> {
    EncoderConfig::from_json(&json.to_string(), Path::new("config.json"))
}

#[test]
fn both_ways_to_write_torchtunes_parameters_are_read() {
    let bare = serde_json::to_value(tiny()).unwrap();
    assert_eq!(parse(&bare).unwrap(), tiny());
    let with_more = json!({ "encoder": bare, "seed": 11, "vision_config": 3 });
    assert_eq!(parse(&with_more).unwrap(), tiny());
    for set in ["tiny", "resize/tiny"] {
        let read = EncoderConfig::from_file(&golden(set).join("config.json")).unwrap();
        let expected = if set == "tiny" { tiny() } else { EncoderConfig { tile_size: 42, max_num_tiles: 3, ..tiny() } };
        assert_eq!(read, expected, "{set}");
    }
    let wide = EncoderConfig::from_file(&golden("wide/config.json")).unwrap();
    assert_eq!(wide.clip_hidden_states, [0, 2], "written as [2, 0]");
}

#[test]
fn left_out_parameters_have_torchtunes_defaults() {
    let mut json = serde_json::to_value(tiny()).unwrap();
    let fields = json.as_object_mut().unwrap();
    fields.remove("max_num_tiles");
    fields.remove("in_channels");
    fields.insert("clip_hidden_states".into(), Value::Null);
    let config = parse(&json).unwrap();
    assert_eq!((config.max_num_tiles, config.in_channels), (4, 3));
    assert!(config.clip_hidden_states.is_empty());
    let fields = json.as_object_mut().unwrap();
    fields.insert("clip_hidden_states".into(), json!([]));
    assert_eq!(parse(&json).unwrap(), config);
}

#[test]
fn parameters_without_a_default_must_be_given() {
    let whole = serde_json::to_value(tiny()).unwrap();
    let given: Vec<&String> = whole.as_object().unwrap().keys().collect();
    for field in given.into_iter().filter(|f| !["max_num_tiles", "in_channels"].contains(&f.as_str())) {
        let mut json = whole.clone();
        json.as_object_mut().unwrap().remove(field);
        let refusal = refusal(parse(&json));
        assert!(matches!(&refusal, ConfigError::Json { reason, .. } if reason.contains(field.as_str())), "{refusal:?}");
    }
}

#[test]
fn unknown_parameters_are_refused() {
    let mut json = serde_json::to_value(tiny()).unwrap();
    json.as_object_mut().unwrap().insert("clip_num_heads".into(), json!(2));
    for json in [json.clone(), json!({ "encoder": json })] {
        let refusal = refusal(parse(&json));
        assert!(
            matches!(&refusal, ConfigError::Json { reason, .. } if reason.contains("clip_num_heads")),
            "{refusal:?}"
        );
    }
}

#[test]
fn what_is_not_a_configuration_is_refused_with_the_file() {
    let texts = [
        "",
        "{",
        "null",
        "[]",
        "3",
        "\"encoder\"",
        "{}",
        "{\"encoder\": null}",
        "{\"encoder\": []}",
        "[14, 2, 160, 3, [0, 2], 2, 96, 28, 4, 3]",
        "{\"encoder\": [14, 2, 160, 3, [0, 2], 2, 96, 28, 4, 3]}",
        "{\"vision_config\": null}",
        "{\"vision_config\": {}, \"text_config\": {}}",
        "\u{feff}{}",
        "{\"encoder\": 1e999}",
    ];
    let nested = "[".repeat(100_000);
    for text in texts.into_iter().chain([nested.as_str()]) {
        let refusal = refusal(EncoderConfig::from_json(text, Path::new("some/config.json")));
        assert!(matches!(refusal, ConfigError::Json { .. }), "{text:.40}: {refusal:?}");
        assert!(refusal.to_string().starts_with("some/config.json: "), "{refusal}");
    }
}

#[test]
fn values_of_another_type_are_refused() {
    let whole = serde_json::to_value(tiny()).unwrap();
    let values = [json!("14"), json!(-14), json!(14.0), json!(1.8e19), json!(18446744073709551615u64), json!([14])];
    for field in whole.as_object().unwrap().keys() {
        for value in values.iter().chain([&json!({}), &json!(true)]) {
            if field == "clip_hidden_states" && value.is_array() {
                continue;
            }
            let mut json = whole.clone();
            json[field] = value.clone();
            let refusal = refusal(parse(&json));
            let typed = match refusal {
                ConfigError::Json { .. } => true,
                ConfigError::TooLarge { name, .. } => name == field && value.as_u64().is_some(),
                _ => false,
            };
            assert!(typed, "{field} = {value}: {refusal:?}");
        }
    }
    for indices in [json!([1.5]), json!(["0"]), json!([null]), json!([9223372036854775808u64])] {
        let mut json = whole.clone();
        json["clip_hidden_states"] = indices;
        assert!(matches!(refusal(parse(&json)), ConfigError::Json { .. }));
    }
}

fn hugging_face() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("hf_tiny/config.json")).unwrap()).unwrap()
}

#[test]
fn hugging_faces_form_is_read() {
    let expected = EncoderConfig {
        patch_size: 14,
        num_heads: 2,
        clip_embed_dim: 64,
        clip_num_layers: 3,
        clip_hidden_states: vec![0, 2],
        num_layers_projection: 1,
        decoder_embed_dim: 32,
        tile_size: 28,
        max_num_tiles: 4,
        in_channels: 3,
    };
    assert_eq!(parse(&hugging_face()).unwrap(), expected);
    // What only repeats the rest may be left out.
    let mut json = hugging_face();
    let vision = json["vision_config"].as_object_mut().unwrap();
    for field in ["intermediate_size", "vision_output_dim", "norm_eps", "hidden_act", "supported_aspect_ratios"] {
        assert!(vision.remove(field).is_some(), "{field} is not in the file");
    }
    assert_eq!(parse(&json).unwrap(), expected);
}

#[test]
fn what_hugging_faces_form_can_say_beyond_the_encoder_is_refused() {
    let grids = json!([[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]);
    assert_eq!(hugging_face()["vision_config"]["supported_aspect_ratios"], grids);
    let mut reordered = grids.clone();
    reordered.as_array_mut().unwrap().swap(1, 4);
    let mut fewer = grids.clone();
    fewer.as_array_mut().unwrap().pop();
    let mut more = grids.clone();
    more.as_array_mut().unwrap().push(json!([3, 3]));
    let values = [
        ("norm_eps", json!(1e-6)),
        ("hidden_act", json!("gelu_new")),
        ("hidden_act", json!("quick_gelu")),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("intermediate_size", json!(255)),
        ("vision_output_dim", json!(64)),
        ("supported_aspect_ratios", reordered),
        ("supported_aspect_ratios", fewer),
        ("supported_aspect_ratios", more),
    ];
    for (name, value) in values {
        let mut json = hugging_face();
        json["vision_config"][name] = value;
        let refusal = refusal(parse(&json));
        let expected = format!("vision_config.{name}");
        assert!(matches!(refusal, ConfigError::Unsupported { field, .. } if field == expected), "{refusal:?}");
    }
}

#[test]
fn hugging_faces_form_keeps_the_same_rules() {
    let change = |field: &str, value: Value| {
        let mut json = hugging_face();
        json["vision_config"][field] = value;
        refusal(parse(&json))
    };
    assert_eq!(change("image_size", json!(0)), ConfigError::Zero { name: "tile_size" });
    assert_eq!(change("attention_heads", json!(5)), ConfigError::HeadsDoNotDivide { embed_dim: 64, num_heads: 5 });
    let out_of_range = ConfigError::HiddenStateOutOfRange { num_layers: 3, index: -1 };
    assert_eq!(change("intermediate_layers_indices", json!([-1])), out_of_range);
    // A list of this encoder's grids would not fit into memory; it must not be made.
    let mut json = hugging_face();
    for (field, value) in [("max_num_tiles", 1 << 24), ("image_size", 1), ("patch_size", 1), ("hidden_size", 2)] {
        json["vision_config"][field] = json!(value);
    }
    json["vision_config"]["intermediate_size"] = json!(8);
    json["vision_config"]["vision_output_dim"] = json!(6);
    let refusal = refusal(parse(&json));
    let field = "vision_config.supported_aspect_ratios";
    assert!(matches!(refusal, ConfigError::Unsupported { field: found, .. } if found == field), "{refusal:?}");
}

#[test]
fn an_absent_file_is_an_io_error() {
    let missing = EncoderConfig::from_file(Path::new("does/not/exist.json"));
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    let folder = EncoderConfig::from_file(&golden("tiny"));
    assert!(matches!(folder, Err(Error::Io { .. })), "{folder:?}");
}

/// A value that could stand anywhere in a JSON file.
fn any_value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (0u64..40).prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|x| json!(x)),
        (0u32..64).prop_map(|shift| json!(1u64 << shift)),
    ];
    let other =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::Bool), "[a-z_]{0,6}".prop_map(Value::from)];
    let leaf = prop_oneof![4 => number, 1 => other];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-z_]{1,6}", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

/// What is done to one place of a file.
#[derive(Debug, Clone)]
enum Mutation {
    Replace(Value),
    Remove,
}

/// Changes the `place`th field that can be reached from `json`, counting depth first.
fn mutate(json: &mut Value, place: &mut usize, mutation: &Mutation) -> bool {
    match json {
        Value::Object(fields) => {
            for key in fields.keys().cloned().collect::<Vec<_>>() {
                if *place == 0 {
                    match mutation {
                        Mutation::Replace(value) => fields.insert(key, value.clone()),
                        Mutation::Remove => fields.remove(&key),
                    };
                    return true;
                }
                *place -= 1;
                if mutate(&mut fields[&key], place, mutation) {
                    return true;
                }
            }
            false
        }
        Value::Array(values) => values.iter_mut().any(|value| mutate(value, place, mutation)),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_changed_file_is_read_or_refused(
        form in 0usize..3,
        mutations in prop::collection::vec(
            (0usize..40, prop_oneof![4 => any_value().prop_map(Mutation::Replace), 1 => Just(Mutation::Remove)]),
            1..4,
        ),
    ) {
        let bare = serde_json::to_value(tiny()).unwrap();
        let mut json = [bare.clone(), json!({ "encoder": bare }), hugging_face()][form].clone();
        for (place, mutation) in &mutations {
            mutate(&mut json, &mut place.clone(), mutation);
        }
        match parse(&json) {
            Ok(config) => {
                prop_assert_eq!(config.clone().validated().unwrap(), config.clone(), "rules hold for what was read");
                let again = parse(&serde_json::to_value(&config).unwrap()).unwrap();
                prop_assert_eq!(&again, &config, "what was read can be written and read again");
                // None of these may overflow, which the tests' build would panic at.
                let sizes = [config.num_tokens(), config.patch_len(), config.tile_len(), config.projection_dim()];
                prop_assert!(sizes.iter().all(|size| *size > 0));
                prop_assert!((config.num_tokens() + config.num_alignment_rows()).is_multiple_of(8));
            }
            Err(Error::Config(_)) => {}
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_torn_file_is_read_or_refused(at in 0usize..2000, byte in any::<u8>(), end in 0usize..4000) {
        let mut bytes = hugging_face().to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(end);
        let text = String::from_utf8_lossy(&bytes);
        let result = EncoderConfig::from_json(&text, Path::new("config.json"));
        prop_assert!(matches!(result, Ok(_) | Err(Error::Config(_))), "{result:?}");
    }
}

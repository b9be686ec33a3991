//! Loading, instances, and what the server may get wrong.

use std::fs::OpenOptions;

use super::*;

#[test]
fn servers_of_another_time_are_refused() {
    let [major, minor] = api::VERSION;
    for (version, is_good) in
        [([major, minor], true), ([major, minor + 9], true), ([major, minor - 1], false), ([major + 1, minor], false)]
    {
        host::VERSION.set(version);
        let result = status(backend::TRITONBACKEND_Initialize(null_mut()));
        assert_eq!(result.is_ok(), is_good, "{version:?}");
        if let Err((code, message)) = result {
            assert_eq!(code, ErrorCode::UNSUPPORTED);
            assert!(message.contains(&format!("{}.{}", version[0], version[1])), "{message}");
        }
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let code = |error| status(error).unwrap_err().0;
    // SAFETY: null is refused.
    assert_eq!(code(unsafe { backend::TRITONBACKEND_ModelInitialize(null_mut()) }), ErrorCode::INVALID_ARG);
    // SAFETY: as above.
    assert_eq!(code(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(null_mut()) }), ErrorCode::INVALID_ARG);
    let model = model(config(json!({})), true);
    let instance = instance(model, GroupKind::CPU, 0);
    // SAFETY: model and instance live; the former was not initialised.
    let initialised = unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(instance.cast()) };
    assert_eq!(code(initialised), ErrorCode::INVALID_ARG);
    let mut one = pictures(&[&picture(0)]);
    let mut requests = [(&raw mut one).cast()];
    // SAFETY: as above.
    let executed = unsafe { backend::TRITONBACKEND_ModelInstanceExecute(instance.cast(), requests.as_mut_ptr(), 1) };
    assert_eq!(code(executed), ErrorCode::INVALID_ARG);
    assert!(one.answer.is_none() && !one.released, "of a call that is refused the requests stay the server's");
    // SAFETY: what was not initialised has nothing to lose.
    status(unsafe { backend::TRITONBACKEND_ModelInstanceFinalize(instance.cast()) }).unwrap();
    // SAFETY: it comes from a box.
    drop(unsafe { Box::from_raw(instance) });
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(model) });

    let loaded = Loaded::new(json!({}));
    // SAFETY: null is refused.
    let executed = unsafe { backend::TRITONBACKEND_ModelInstanceExecute(loaded.instance.cast(), null_mut(), 1) };
    assert_eq!(code(executed), ErrorCode::INVALID_ARG);
}

#[test]
fn configurations_are_completed_where_the_server_lets_them_be() {
    let loaded = Loaded::new(json!({}));
    // SAFETY: it lives.
    let completed = unsafe { &*loaded.model }.config.borrow();
    assert_eq!(completed["max_batch_size"], 8);
    assert_eq!(completed["input"][1]["dims"], json!([-1, 3, 28, 28]));
    assert_eq!(completed["output"][0]["dims"], json!([20, 32]));
    assert_eq!(completed["dynamic_batching"], json!({}));

    let closed = model(config(json!({})), false);
    // SAFETY: it lives until it is dropped below.
    let (code, message) = status(unsafe { backend::TRITONBACKEND_ModelInitialize(closed.cast()) }).unwrap_err();
    assert!(code == ErrorCode::INVALID_ARG && message.contains("max_batch_size must be at least 1"), "{message}");
    // SAFETY: it comes from a box.
    drop(unsafe { Box::from_raw(closed) });
}

#[test]
fn instances_are_where_this_build_can_compute() {
    let mut preferred: Vec<GroupKind> = Vec::new();
    let attributes: *mut api::BackendAttribute = (&raw mut preferred).cast();
    status(backend::TRITONBACKEND_GetBackendAttribute(null_mut(), attributes)).unwrap();
    let with_cuda = cfg!(feature = "cuda");
    let expected = if with_cuda { vec![GroupKind::GPU, GroupKind::CPU] } else { vec![GroupKind::CPU] };
    assert_eq!(preferred, expected);

    let loaded = Loaded::new(json!({}));
    for (kind, words) in [(GroupKind(3), "must be KIND_CPU or KIND_GPU"), (GroupKind::GPU, "--features cuda")] {
        if with_cuda && kind == GroupKind::GPU {
            continue;
        }
        let other = instance(loaded.model, kind, 0);
        // SAFETY: it lives until it is dropped below, and its model longer.
        let (code, message) =
            status(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(other.cast()) }).unwrap_err();
        assert!(code == ErrorCode::UNSUPPORTED && message.contains(words), "{message}");
        // SAFETY: it comes from a box.
        drop(unsafe { Box::from_raw(other) });
    }
}

#[test]
fn instances_share_weights_that_no_file_can_change() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let expected = embeddings(&picture(0));
    let loaded = Loaded::new(json!({ "model": folder.path() }));
    for shard in 1..=3 {
        let shard = folder.path().join(format!("model-0000{shard}-of-00003.safetensors"));
        OpenOptions::new().write(true).open(shard).unwrap().set_len(1).unwrap();
    }
    let encoded = |loaded: &Loaded| {
        let mut one = pictures(&[&picture(0)]);
        loaded.execute(std::slice::from_mut(&mut one));
        assert_padded(&answered(&one)[0], &expected);
    };
    encoded(&loaded);
    // An instance that comes later has the bytes of the first, for there are no others.
    let later = Loaded { model: loaded.model, instance: instance(loaded.model, GroupKind::CPU, 0) };
    let later = std::mem::ManuallyDrop::new(later);
    // SAFETY: it lives until it is dropped below, and its model longer.
    status(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(later.instance.cast()) }).unwrap();
    encoded(&later);
    // SAFETY: this is the last call with the instance.
    status(unsafe { backend::TRITONBACKEND_ModelInstanceFinalize(later.instance.cast()) }).unwrap();
    // SAFETY: it comes from a box, and nobody has it any more.
    drop(unsafe { Box::from_raw(later.instance) });
    encoded(&loaded);
}

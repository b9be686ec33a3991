use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// A region of an object of `len` bytes, which lies in a file of no name.
fn region(len: u64, offset: u64, byte_size: u64) -> Arc<Region> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    Arc::new(Region { name: "region".into(), key: "/object".into(), offset, byte_size, file })
}

#[test]
fn a_key_opens_an_object_and_leads_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::write(place("object"), "bytes").unwrap();
    std::fs::create_dir(place("folder")).unwrap();
    std::fs::write(place("folder/object"), "bytes").unwrap();
    symlink(&secret, place("link")).unwrap();
    symlink("object", place("inside")).unwrap();
    symlink(outside.path(), place("way")).unwrap();
    assert!(Command::new("mkfifo").arg(place("pipe")).status().unwrap().success());
    let _socket = UnixListener::bind(place("socket")).unwrap();

    for key in ["object", "/object", "//object"] {
        assert_eq!(open(folder.path(), key).unwrap().metadata().unwrap().len(), 5, "{key}");
    }
    let up = format!("../{}/secret", outside.path().file_name().unwrap().display());
    let absolute = secret.display().to_string();
    let long = "x".repeat(MAX_NAME + 1);
    for key in [
        "",
        "/",
        "//",
        ".",
        "..",
        "/..",
        "a/b",
        "folder/object",
        "way/secret",
        "object/",
        "obj\0ect",
        &up,
        &absolute,
        &long,
    ] {
        assert!(matches!(open(folder.path(), key), Err(RegionError::Key { .. })), "{key:?}");
    }
    for key in ["nothing", "link", "inside", "way", "folder", "socket"] {
        assert!(matches!(open(folder.path(), key), Err(RegionError::Open { .. })), "{key:?}");
    }
    assert!(matches!(open(folder.path(), "pipe"), Err(RegionError::NoObject { .. })));
    assert!(matches!(open(&PathBuf::from("/dev"), "null"), Err(RegionError::NoObject { .. })));
}

#[test]
fn an_object_that_is_cut_short_is_told_and_not_made_longer() {
    let region = region(100, 20, 50);
    let window = Window { region: region.clone(), offset: 10, byte_size: 40 };
    window.write("output", &[7; 40]).unwrap();
    assert!(window.read().unwrap() == [7; 40][..]);
    region.file.set_len(69).unwrap();
    for refused in [window.read().map(drop), window.write("output", &[8; 4])] {
        assert!(matches!(refused, Err(RegionError::Beyond { found: 69, .. })), "{refused:?}");
    }
    assert_eq!(region.file.metadata().unwrap().len(), 69);
    region.file.set_len(70).unwrap();
    let read = window.read().unwrap();
    assert!(read[..39] == [7; 39] && read[39] == 0);
    let refused = window.write("output", &[8; 41]);
    assert!(matches!(refused, Err(RegionError::TooSmall { needed: 41, found: 40, .. })));
}

proptest! {
    /// Whatever the numbers are: what is taken lies within the region and the object, and nothing else is refused.
    #[test]
    fn a_window_is_within_its_region_and_its_object(
        len in 0..60u64,
        begin in prop_oneof![0..60u64, any::<u64>()],
        size in prop_oneof![1..60u64, any::<u64>()],
        offset in prop_oneof![0..60u64, any::<u64>()],
        byte_size in prop_oneof![0..60u64, any::<u64>()],
    ) {
        let [wide_begin, wide_offset, wide_size] = [begin, offset, byte_size].map(u128::from);
        let is_within = wide_offset + wide_size <= size.into() && wide_begin + wide_offset + wide_size <= len.into();
        prop_assert_eq!(region(len, begin, size).require(offset, byte_size).is_ok(), is_within);
    }
}

#[test]
fn a_window_outlives_its_registration() {
    let regions = Regions::new(1);
    regions.lock().insert("region".into(), region(10, 0, 10));
    let window = regions.window("region", 0, 10).unwrap();
    regions.unregister(Some("region"));
    assert!(matches!(regions.window("region", 0, 10), Err(RegionError::Unknown { .. })));
    window.write("output", &[1; 10]).unwrap();
    assert!(window.read().unwrap() == [1; 10][..]);
    regions.unregister(Some("region"));
    regions.unregister(None);
}

//! Files of `torch.save` in both layouts. `fixtures/make_files.py` wrote them, and the values that torch
//! reads from them.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use torch_files::{Error, TorchFile};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn refusal(path: impl AsRef<Path>) -> Error {
    TorchFile::open(path).unwrap_err()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn both_layouts_hold_the_tensors_that_torch_reads() {
    let expected = candle_core::safetensors::load(fixture("expected.safetensors"), &Device::Cpu).unwrap();
    for name in ["zip.bin", "legacy.bin", "legacy_protocol_4.bin"] {
        let file = TorchFile::open(fixture(name)).unwrap();
        assert_eq!(file.shapes().count(), expected.len(), "{name}");
        for (key, shape) in file.shapes() {
            let (got, expected) = (file.tensor(key).unwrap().unwrap(), &expected[key]);
            assert_eq!((got.dims(), got.dtype()), (expected.dims(), expected.dtype()), "{name}: {key}");
            assert_eq!((shape, file.dtype(key)), (expected.dims(), Some(expected.dtype())), "{name}: {key}");
            assert_eq!(numbers(&got), numbers(expected), "{name}: {key}");
        }
        assert!(file.tensor("none").unwrap().is_none() && file.dtype("none").is_none());
    }
}

#[test]
fn a_call_of_a_system_function_is_refused_with_its_name() {
    for name in ["system.bin", "system_zip.bin"] {
        let error = refusal(fixture(name));
        assert!(matches!(&error, Error::Global { name, .. } if name == "posix.system"), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_training_checkpoint_is_distinguished_from_a_weight_file() {
    let error = refusal(fixture("training.bin")).to_string();
    assert!(error.contains("more than tensors (epoch, state_dict)"), "{error}");
    assert!(error.contains("training.bin") && error.contains("safetensors"), "{error}");
}

#[test]
fn an_unsupported_type_is_reported_with_its_tensor() {
    let error = refusal(fixture("char.bin")).to_string();
    assert!(error.contains("weight: its numbers are of the type torch.CharStorage"), "{error}");
}

#[test]
fn a_git_lfs_pointer_is_an_error_with_the_command_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    fs::write(&path, pointer).unwrap();
    let error = refusal(&path);
    assert!(
        matches!(error, Error::LfsPointer { .. }) && error.to_string().contains("git lfs pull"),
        "{error}"
    );
}

/// Opens the file and reads all of its tensors.
fn read_all(path: &Path) -> Result<(), Error> {
    let file = TorchFile::open(path)?;
    let names: Vec<String> = file.shapes().map(|(name, _)| name.to_owned()).collect();
    names.iter().try_for_each(|name| file.tensor(name).map(drop))
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.bin");
    for name in ["zip.bin", "legacy.bin"] {
        let bytes = fs::read(fixture(name)).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let error = read_all(&path).unwrap_err();
            assert!(error.to_string().contains("cut.bin"), "{name} cut to {length}: {error}");
        }
    }
}

/// A damaged file is read or refused, without a panic.
#[test]
fn a_file_with_a_changed_byte_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.bin");
    for name in ["zip.bin", "legacy.bin", "legacy_protocol_4.bin"] {
        let bytes = fs::read(fixture(name)).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            fs::write(&path, changed).unwrap();
            let _ = read_all(&path);
        }
    }
}

/// Replaces the pickle of the tensors in an older file.
#[test]
fn deep_nesting_and_self_reference_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep.bin");
    let head = &fs::read(fixture("legacy.bin")).unwrap();
    // The pickles of magic number, version and machine come before that of the tensors.
    let starts: Vec<usize> =
        (0..head.len() - 1).filter(|at| head[*at..].starts_with(b"\x80\x02")).take(4).collect();
    let head = &head[..starts[3]];
    let deep = [b"\x80\x02)".as_slice(), &vec![0x85; 1_000_000], b"."].concat();
    let cycle = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.".to_vec();
    let doubling = [b"\x80\x02)".as_slice(), &b"q\x00h\x00\x86".repeat(100_000), b"."].concat();
    for pickle in [deep, cycle, doubling] {
        fs::write(&path, [head, &pickle, b"\x80\x02]."].concat()).unwrap();
        assert!(matches!(refusal(&path), Error::Unsupported { .. }));
    }
}

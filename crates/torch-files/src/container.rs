//! The two layouts of a file: the zip archive, and the older sequence of pickles.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use crate::Place;
use crate::error::Fault;
use crate::pickle::{Pickle, Value};
use crate::state;
use crate::storage::Storage;

type Result<T> = std::result::Result<T, Fault>;

/// The first bytes of a zip archive.
const ZIP: &[u8] = b"PK\x03\x04";
/// The number at the beginning of the older layout, in little-endian order.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The version of the older layout; there was only one.
const VERSION: i64 = 1001;

/// The tensors of the file at `path`, which begins with `start`.
pub(crate) fn read(path: &Path, start: &[u8]) -> Result<BTreeMap<String, Place>> {
    let file = File::open(path)?;
    if start.starts_with(ZIP) {
        archive(file)
    } else if start.first() == Some(&0x80) {
        pickles(file)
    } else {
        damaged(format!("it begins with \"{}\"", start[..start.len().min(8)].escape_ascii()))
    }
}

fn damaged<T>(reason: impl Into<String>) -> Result<T> {
    Err(Fault::Damaged(reason.into()))
}

/// The tensors by name, with the positions of their storages in the file.
fn placed(
    pickle: &Pickle,
    storages: &HashMap<String, Storage>,
    starts: &HashMap<String, u64>,
) -> Result<BTreeMap<String, Place>> {
    let views = state::tensors(pickle, storages)?.into_iter();
    views
        .map(|(name, view)| match starts.get(&view.storage) {
            Some(start) => Ok((name, Place { start: *start, view })),
            None => damaged(format!("{name}: its storage {} is missing", view.storage)),
        })
        .collect()
}

/// Reads an archive: `NAME/data.pkl` is the pickle, `NAME/data/KEY` are the storages.
fn archive(file: File) -> Result<BTreeMap<String, Place>> {
    let zip = |error: zip::result::ZipError| Fault::Damaged(error.to_string());
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(zip)?;
    let mut roots = Vec::new();
    for name in archive.file_names() {
        let name = name.map_err(zip)?;
        if let Some(root) =
            name.strip_suffix("data.pkl").filter(|root| root.is_empty() || root.ends_with('/'))
        {
            roots.push(root.to_owned());
        }
    }
    let [root] = &roots[..] else {
        return damaged(format!(
            "it is an archive with {} files called data.pkl, and should have one",
            roots.len()
        ));
    };
    if archive.file_names().any(|name| name.is_ok_and(|name| name == format!("{root}byteorder"))) {
        let mut order = String::new();
        archive.by_name(&format!("{root}byteorder")).map_err(zip)?.take(16).read_to_string(&mut order)?;
        if order.trim() != "little" {
            return Err(Fault::Unsupported(format!("its numbers are stored in the byte order \"{order}\"")));
        }
    }
    let pickle = {
        let entry = archive.by_name(&format!("{root}data.pkl")).map_err(zip)?;
        Pickle::read(&mut BufReader::new(entry))?
    };
    let storages = state::storages(&pickle)?;
    let mut starts = HashMap::new();
    for storage in storages.values() {
        let entry = archive.by_name(&format!("{root}data/{}", storage.key)).map_err(zip)?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(Fault::Unsupported("it is a compressed archive".to_owned()));
        }
        if entry.size() < storage.bytes() {
            let (key, expected, got) = (&storage.key, storage.bytes(), entry.size());
            return damaged(format!("its storage {key} should have {expected} bytes, and has {got}"));
        }
        let Some(start) = entry.data_start() else { return damaged("it is a damaged archive") };
        starts.insert(storage.key.clone(), start);
    }
    placed(&pickle, &storages, &starts)
}

/// Reads the older layout: a magic number, a version, a description of the machine that wrote it, the
/// tensors, the order of the storages, and the storages, each after its number of elements.
fn pickles(file: File) -> Result<BTreeMap<String, Place>> {
    let length = file.metadata()?.len();
    let mut input = BufReader::new(file);
    let magic = Pickle::read(&mut input)?;
    if !matches!(magic.value(magic.root), Value::LongInt(bytes) if *bytes == MAGIC) {
        return Err(Fault::Unsupported("it is a pickle that torch.save did not write".to_owned()));
    }
    let version = Pickle::read(&mut input)?;
    if !matches!(version.value(version.root), Value::Int(VERSION)) {
        return Err(Fault::Unsupported("its version is not 1001".to_owned()));
    }
    let _machine = Pickle::read(&mut input)?;
    let pickle = Pickle::read(&mut input)?;
    let order = Pickle::read(&mut input)?;
    let Some(keys) = order.items(order.root) else {
        return damaged("the order of its storages is not a list");
    };

    let storages = state::storages(&pickle)?;
    let mut starts = HashMap::new();
    let mut position = input.stream_position()?;
    for key in keys {
        let Some(storage) = order.text(*key).and_then(|key| storages.get(key)) else {
            return damaged("it has a storage that no tensor names");
        };
        input.seek(SeekFrom::Start(position))?;
        let mut elements = [0; 8];
        input.read_exact(&mut elements)?;
        let elements = u64::from_le_bytes(elements);
        if elements != storage.elements as u64 {
            let (key, expected) = (&storage.key, storage.elements);
            return damaged(format!("its storage {key} should have {expected} elements, and has {elements}"));
        }
        starts.insert(storage.key.clone(), position + 8);
        position += 8 + storage.bytes();
        if position > length {
            return damaged("it ends too early");
        }
    }
    placed(&pickle, &storages, &starts)
}

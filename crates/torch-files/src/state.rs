//! Converts the values of a pickle to named tensors.

use std::collections::{BTreeMap, HashMap};

use crate::error::Fault;
use crate::pickle::{Id, Pickle, Value};
use crate::storage::{Storage, View};

/// The number of names that an error lists.
const SHOWN: usize = 5;

/// All storages that a pickle refers to, by name.
pub(crate) fn storages(pickle: &Pickle) -> Result<HashMap<String, Storage>, Fault> {
    let mut storages = HashMap::new();
    for value in &pickle.values {
        let Value::Persistent(id) = value else { continue };
        let storage = storage(pickle, *id)?;
        if storages.get(&storage.key).is_some_and(|other| *other != storage) {
            return Err(Fault::Damaged(format!("its storage {} is described in two ways", storage.key)));
        }
        storages.insert(storage.key.clone(), storage);
    }
    Ok(storages)
}

/// Reads a storage from a tuple `("storage", type, key, device, elements)`; before PyTorch 1.6 it has a sixth
/// item.
fn storage(pickle: &Pickle, id: Id) -> Result<Storage, Fault> {
    let wrong = || Fault::Damaged("a storage in it is not described as PyTorch does".to_owned());
    let items = pickle.items(id).ok_or_else(wrong)?;
    let (&[tag, kind, key, _, elements], rest) = items.split_first_chunk().ok_or_else(wrong)?;
    if pickle.text(tag) != Some("storage") {
        return Err(wrong());
    }
    if rest.iter().any(|id| !matches!(pickle.value(*id), Value::None)) {
        return Err(Fault::Unsupported(
            "it holds views of storages, as PyTorch before 0.4 wrote them".to_owned(),
        ));
    }
    let (Value::Global(kind), Some(key), Some(elements)) =
        (pickle.value(kind), pickle.text(key), pickle.size(elements))
    else {
        return Err(wrong());
    };
    Storage::new(key, kind, elements)
}

/// The tensors of a dictionary, by name.
pub(crate) fn tensors(
    pickle: &Pickle,
    storages: &HashMap<String, Storage>,
) -> Result<BTreeMap<String, View>, Fault> {
    let Value::Dict(items) = pickle.value(pickle.root) else {
        return Err(Fault::Unsupported("it holds no dictionary of tensors by their names".to_owned()));
    };
    let (mut tensors, mut others) = (BTreeMap::new(), Vec::new());
    for (key, value) in items {
        let name = match pickle.value(*key) {
            Value::Text(name) => name.clone(),
            Value::Int(number) => number.to_string(),
            _ => "a key that is not text".to_owned(),
        };
        match view(pickle, *value, storages) {
            Ok(Some(view)) => drop(tensors.insert(name, view)),
            Ok(None) => others.push(name),
            Err(Fault::Damaged(reason)) => return Err(Fault::Damaged(format!("{name}: {reason}"))),
            Err(Fault::Unsupported(what)) => return Err(Fault::Unsupported(format!("{name}: {what}"))),
            Err(fault) => return Err(fault),
        }
    }
    if others.is_empty() {
        return Ok(tensors);
    }
    let more = if others.len() > SHOWN { ", …" } else { "" };
    others.truncate(SHOWN);
    Err(Fault::Unsupported(format!(
        "it holds more than tensors ({}{more}), as the checkpoint of a training program does and a file of weights does not",
        others.join(", ")
    )))
}

/// The tensor in a value; `None` if the value is something else.
fn view(pickle: &Pickle, id: Id, storages: &HashMap<String, Storage>) -> Result<Option<View>, Fault> {
    let (mut function, mut arguments) = match pickle.value(id) {
        Value::Call(function, arguments) => (*function, *arguments),
        _ => return Ok(None),
    };
    // A parameter, or a tensor of a subclass, is a call with its tensor as an argument.
    for _ in 0..3 {
        let Value::Global(name) = pickle.value(function) else { return Ok(None) };
        let items = pickle.items(arguments).unwrap_or_default();
        match (name.as_str(), items) {
            ("_rebuild_tensor" | "_rebuild_tensor_v2", &[storage, offset, shape, strides, ..]) => {
                return rebuilt(pickle, [storage, offset, shape, strides], storages).map(Some);
            }
            ("_rebuild_parameter", &[tensor, ..]) => match pickle.value(tensor) {
                Value::Call(inner, inner_arguments) => (function, arguments) = (*inner, *inner_arguments),
                _ => return Ok(None),
            },
            ("_rebuild_from_type_v2", &[inner, _, inner_arguments, ..]) => {
                (function, arguments) = (inner, inner_arguments);
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The tensor from the arguments of `_rebuild_tensor_v2(storage, offset, shape, strides, …)`.
fn rebuilt(
    pickle: &Pickle,
    [storage, offset, shape, strides]: [Id; 4],
    storages: &HashMap<String, Storage>,
) -> Result<View, Fault> {
    let wrong = || Fault::Damaged("the tensor is not described as PyTorch does".to_owned());
    let sizes =
        |id: Id| -> Option<Vec<usize>> { pickle.items(id)?.iter().map(|id| pickle.size(*id)).collect() };
    let Value::Persistent(described) = pickle.value(storage) else { return Err(wrong()) };
    let key = pickle.items(*described).and_then(|items| pickle.text(*items.get(2)?));
    let storage = key.and_then(|key| storages.get(key)).ok_or_else(wrong)?;
    let (Some(offset), Some(shape), Some(strides)) = (pickle.size(offset), sizes(shape), sizes(strides))
    else {
        return Err(wrong());
    };
    let Some(dtype) = storage.dtype else {
        return Err(Fault::Unsupported(format!("its numbers are of the type torch.{}", storage.kind)));
    };
    let view = View { storage: storage.key.clone(), dtype, offset, shape, strides };
    view.check(storage).map_err(Fault::Damaged)?;
    Ok(view)
}

//! An interpreter for the pickles of dictionaries of tensors.
//!
//! All values are in one list and refer to each other by index, so that neither cycles nor deep nesting can
//! exhaust memory or the stack.

mod machine;

use std::io::BufRead;

use crate::error::Fault;

use machine::Machine;

type Result<T> = std::result::Result<T, Fault>;

/// The index of a value.
pub(crate) type Id = usize;

/// A value that a pickle creates.
#[derive(Debug)]
pub(crate) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    /// An integer of more than 64 bits, as bytes in little-endian order.
    LongInt(Vec<u8>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class of [`GLOBALS`], or a storage type: its name without the module.
    Global(String),
    /// A call of a function or class with its arguments. It is recorded, not run.
    Call(Id, Id),
    /// A reference to an object outside the pickle, which is a storage.
    Persistent(Id),
}

/// The functions and classes that a dictionary of tensors needs. Storage types are allowed by their suffix.
const GLOBALS: [(&str, &str); 8] = [
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter"),
    ("torch", "Tensor"),
    ("torch", "Size"),
];

/// The values of a pickle. The last one left on the stack is the result.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) values: Vec<Value>,
    pub(crate) root: Id,
}

impl Pickle {
    /// Runs the pickle at the reader's position, and reads exactly up to its end.
    pub(crate) fn read(input: &mut impl BufRead) -> Result<Self> {
        let (values, root) = Machine::new(input).run()?;
        Ok(Self { values, root })
    }

    pub(crate) fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// The value as a string.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as an integer that is not negative.
    pub(crate) fn size(&self, id: Id) -> Option<usize> {
        match self.value(id) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The items of a tuple or a list.
    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }
}

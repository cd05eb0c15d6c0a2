//! The virtual machine that runs a pickle.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};

use super::{GLOBALS, Id, Result, Value};
use crate::error::Fault;

/// The virtual machine.
pub(super) struct Machine<'a, R> {
    input: &'a mut R,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// The stack's height at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

fn damaged<T>(reason: impl Into<String>) -> Result<T> {
    Err(Fault::Damaged(reason.into()))
}

impl<'a, R: BufRead> Machine<'a, R> {
    pub(super) fn new(input: &'a mut R) -> Self {
        Self { input, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }
    }

    /// Runs to the end. Returns all values, and the index of the value that remains on the stack.
    pub(super) fn run(mut self) -> Result<(Vec<Value>, Id)> {
        while self.step()? {}
        let root = self.pop()?;
        Ok((self.values, root))
    }

    /// Runs one instruction; returns `false` at the end. The opcodes are those of Python's `pickletools`.
    fn step(&mut self) -> Result<bool> {
        let [code] = self.bytes()?;
        match code {
            b'.' => return Ok(false),
            0x80 => drop(self.bytes::<1>()?),
            0x95 => drop(self.bytes::<8>()?),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' | b'M' | b'J' | 0x8a => {
                let number = self.number(code)?;
                self.push(number);
            }
            b'G' => {
                self.bytes::<8>()?;
                self.push(Value::Float);
            }
            b'X' | b'T' | b'U' | 0x8c => {
                let text = self.text(code)?;
                self.push(Value::Text(text));
            }
            b'c' | 0x93 => self.global(code)?,
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b't' | b'l' | 0x85..=0x87 => {
                let items = self.items(code)?;
                self.push(if code == b'l' { Value::List(items) } else { Value::Tuple(items) });
            }
            b'd' => {
                let pairs = pairs(self.pop_to_mark()?)?;
                self.push(Value::Dict(pairs));
            }
            b'a' | b'e' => self.append(code)?,
            b's' | b'u' => self.set_items(code)?,
            b'R' | 0x81 => self.call()?,
            // The state of an object. For a dictionary it is `_metadata`, the versions of the modules with
            // these tensors.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(code)?,
            _ => return damaged(format!("the instruction {code:#04x} is none of a file of tensors")),
        }
        Ok(true)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(id) if self.stack.len() >= floor => Ok(id),
            _ => damaged("its instructions take more values than there are"),
        }
    }

    fn top(&self) -> Result<Id> {
        self.stack
            .last()
            .copied()
            .map_or_else(|| damaged("its instructions need a value, and there is none"), Ok)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => damaged("its instructions name a mark that was not set"),
        }
    }

    fn number(&mut self, code: u8) -> Result<Value> {
        Ok(Value::Int(match code {
            b'K' => i64::from(self.bytes::<1>()?[0]),
            b'M' => i64::from(u16::from_le_bytes(self.bytes()?)),
            b'J' => i64::from(i32::from_le_bytes(self.bytes()?)),
            _ => {
                let [length] = self.bytes()?;
                let mut bytes = vec![0; usize::from(length)];
                self.input.read_exact(&mut bytes)?;
                if length > 8 {
                    return Ok(Value::LongInt(bytes));
                }
                let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                bytes.resize(8, if negative { 0xff } else { 0 });
                bytes.iter().rev().fold(0, |number: i64, byte| (number << 8) | i64::from(*byte))
            }
        }))
    }

    fn text(&mut self, code: u8) -> Result<String> {
        let length = match code {
            b'U' | 0x8c => u32::from(self.bytes::<1>()?[0]),
            _ => u32::from_le_bytes(self.bytes()?),
        };
        // Reads in small steps: a damaged length must not allocate gigabytes.
        let mut bytes = Vec::new();
        self.input.take(u64::from(length)).read_to_end(&mut bytes)?;
        if bytes.len() < length as usize {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        String::from_utf8(bytes).or_else(|_| damaged("a text in it is not UTF-8"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.input.take(1024).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => String::from_utf8(line).or_else(|_| damaged("a name in it is not UTF-8")),
            _ => damaged("a name in it has no end"),
        }
    }

    /// A function or class by its name, if it is one that tensors need.
    fn global(&mut self, code: u8) -> Result<()> {
        let (module, name) = if code == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.values[module], &self.values[name]) {
                (Value::Text(module), Value::Text(name)) => (module.clone(), name.clone()),
                _ => return damaged("the name of a Python object in it is not text"),
            }
        };
        let is_storage = module == "torch" && name.ends_with("Storage");
        if !is_storage && !GLOBALS.contains(&(module.as_str(), name.as_str())) {
            return Err(Fault::Global(format!("{module}.{name}")));
        }
        self.push(Value::Global(name));
        Ok(())
    }

    fn items(&mut self, code: u8) -> Result<Vec<Id>> {
        if !(0x85..=0x87).contains(&code) {
            return self.pop_to_mark();
        }
        let mut items = (0x85..=code).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    fn append(&mut self, code: u8) -> Result<()> {
        let new = if code == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(items) => items.extend(new),
            _ => return damaged("its instructions append to a value that is not a list"),
        }
        Ok(())
    }

    fn set_items(&mut self, code: u8) -> Result<()> {
        let new = if code == b's' {
            let (value, key) = (self.pop()?, self.pop()?);
            vec![(key, value)]
        } else {
            pairs(self.pop_to_mark()?)?
        };
        let dict = self.top()?;
        match &mut self.values[dict] {
            Value::Dict(items) => items.extend(new),
            _ => return damaged("its instructions set items of a value that is not a dictionary"),
        }
        Ok(())
    }

    /// Records a call without making it, except that of a dictionary, empty or from pairs.
    fn call(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let is_dict = matches!(&self.values[function], Value::Global(name) if name == "OrderedDict");
        let value = match &self.values[arguments] {
            Value::Tuple(arguments) if is_dict && arguments.is_empty() => Value::Dict(Vec::new()),
            Value::Tuple(arguments) if is_dict => Value::Dict(self.pairs_of(arguments)?),
            _ => Value::Call(function, arguments),
        };
        self.push(value);
        Ok(())
    }

    /// The pairs in the list that Python 2 passes to `OrderedDict`.
    fn pairs_of(&self, arguments: &[Id]) -> Result<Vec<(Id, Id)>> {
        let [list] = arguments else { return damaged("a dictionary in it is made of several arguments") };
        let Value::List(list) = &self.values[*list] else {
            return damaged("a dictionary in it is made of a value that is not a list");
        };
        let pair = |item: &Id| match &self.values[*item] {
            Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => damaged("an item of a dictionary in it is not a pair"),
        };
        list.iter().map(pair).collect()
    }

    fn remember(&mut self, code: u8) -> Result<()> {
        let key = match code {
            0x94 => self.memo.len() as u32,
            b'q' | b'h' => u32::from(self.bytes::<1>()?[0]),
            _ => u32::from_le_bytes(self.bytes()?),
        };
        if code == b'h' || code == b'j' {
            let Some(id) = self.memo.get(&key) else {
                return damaged(format!("its instructions name the value {key}, which was not kept"));
            };
            self.stack.push(*id);
        } else {
            self.memo.insert(key, self.top()?);
        }
        Ok(())
    }
}

fn pairs(items: Vec<Id>) -> Result<Vec<(Id, Id)>> {
    if !items.len().is_multiple_of(2) {
        return damaged("a dictionary in it has a key without a value");
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

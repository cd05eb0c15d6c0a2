//! The numbers of all parameters as one list, which is divided into blocks and among workers.

use std::ops::Range;

use super::share;
use crate::{Parameters, Result};

/// Numbers that are exchanged at a time. It limits the memory for copies of gradients.
const BLOCK: usize = 1 << 22;

/// The places of all parameters in one list of numbers, in the order of their names.
pub(super) struct Layout<'a> {
    pub(super) names: Vec<&'a str>,
    starts: Vec<usize>,
    total: usize,
}

impl<'a> Layout<'a> {
    pub(super) fn new(parameters: &'a Parameters) -> Self {
        let (mut names, mut starts, mut total) = (Vec::new(), Vec::new(), 0);
        for (name, variable) in parameters.iter() {
            names.push(name);
            starts.push(total);
            total += variable.elem_count();
        }
        Self { names, starts, total }
    }

    /// The numbers in blocks of at most [`BLOCK`].
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let total = self.total;
        (0..total).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(total))
    }

    /// The place of a parameter.
    pub(super) fn range(&self, parameter: usize) -> Range<usize> {
        self.starts[parameter]..self.starts.get(parameter + 1).copied().unwrap_or(self.total)
    }

    /// Calls `visit` for each parameter with numbers in `range`: with its index, the part of it that is in the range, and
    /// where that part is within the range.
    pub(super) fn for_each_part(
        &self,
        range: &Range<usize>,
        mut visit: impl FnMut(usize, Range<usize>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        // The last parameter that begins at or before the range.
        let first = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        for parameter in first..self.starts.len() {
            let all = self.range(parameter);
            let (start, end) = (all.start.max(range.start), all.end.min(range.end));
            if all.start >= range.end {
                break;
            }
            if start < end {
                visit(parameter, start - all.start..end - all.start, start - range.start..end - range.start)?;
            }
        }
        Ok(())
    }

    /// Whether a parameter has a gradient in any slot.
    pub(super) fn has_gradient(missing: &[Vec<Vec<usize>>], parameter: usize) -> bool {
        missing.iter().flatten().any(|slot| slot.binary_search(&parameter).is_err())
    }
}

/// The part of a block that worker `rank` of `count` adds.
pub(super) fn part(block: &Range<usize>, rank: usize, count: usize) -> Range<usize> {
    let part = share(block.len(), rank, count);
    block.start + part.start..block.start + part.end
}

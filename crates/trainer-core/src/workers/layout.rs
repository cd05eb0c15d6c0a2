//! The numbers of all parameters as one list, which is divided into blocks and among workers.

use std::ops::Range;

use super::share;
use crate::{Parameters, Result};

/// The places of all parameters in one list of numbers.
pub(super) struct Layout<'a> {
    pub(super) names: Vec<&'a str>,
    starts: Vec<usize>,
    total: usize,
}

impl<'a> Layout<'a> {
    /// In the order of the names.
    pub(super) fn new(parameters: &'a Parameters) -> Self {
        Self::of(parameters.iter().map(|(name, variable)| (name, variable.elem_count())))
    }

    /// In another order of the parameters, which are given by their indices in the order of the names.
    pub(super) fn ordered(parameters: &'a Parameters, order: &[usize]) -> Self {
        let sizes: Vec<_> = parameters.iter().map(|(name, variable)| (name, variable.elem_count())).collect();
        Self::of(order.iter().filter_map(|parameter| sizes.get(*parameter).copied()))
    }

    fn of(sizes: impl Iterator<Item = (&'a str, usize)>) -> Self {
        let (mut names, mut starts, mut total) = (Vec::new(), Vec::new(), 0);
        for (name, size) in sizes {
            names.push(name);
            starts.push(total);
            total += size;
        }
        Self { names, starts, total }
    }

    /// The numbers in blocks of at most `size`.
    pub(super) fn blocks(&self, size: usize) -> impl Iterator<Item = Range<usize>> {
        let total = self.total;
        (0..total).step_by(size).map(move |start| start..(start + size).min(total))
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

    /// The number of parameters with numbers in `range`.
    pub(super) fn parameters_in(&self, range: &Range<usize>) -> Result<usize> {
        let mut count = 0;
        self.for_each_part(range, |_, _, _| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
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

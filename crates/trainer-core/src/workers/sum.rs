//! The sum of gradients over the passes of a step, in the order of the passes wherever they were computed.

use std::collections::VecDeque;
use std::ops::Range;

use candle_core::Tensor;

use super::exchange::lost;
use super::layout::{Layout, part};
use super::{Exchange, Workers, message};
use crate::{Gradients, Parameters, Result};

/// Numbers that a worker sends in one exchange: 8 MB. A network transfers at nearly its full rate in messages of this size, and
/// a layer of a base model fills three of them, so that sending begins early in the backward pass. Adapters often fit in one.
const BLOCK: usize = 1 << 21;

/// Exchanges of gradients that run at a time, and as many of sums. It bounds the memory for copies, and lets a worker be ahead of
/// another one by about a layer without waiting for it.
const RUNNING: usize = 4;

/// Adds the gradients of all slots on the host, in the order of the workers' ranks and of the slots of each.
///
/// The numbers of all parameters are one list, in blocks. Each block is divided among the workers: every worker receives its part
/// of all slots, and adds it; then the sums are gathered. So every number is added by one worker in one order, and no more bytes
/// are sent than for an all-reduce over a ring. A missing gradient is left out, because adding 0 would turn -0 into 0.
///
/// A block is sent as soon as this worker has computed its gradients in all of its slots. All workers send the blocks in the same
/// order, and wait for them in the same order, whenever they are ready.
pub(crate) struct HostSum<'a> {
    workers: &'a dyn Workers,
    parameters: &'a Parameters,
    layout: Layout<'a>,
    /// For each parameter, in the order of the names, its place in the layout.
    places: Vec<usize>,
    /// The number of slots of each worker.
    slots: Vec<usize>,
    blocks: Vec<Range<usize>>,
    /// The number of blocks whose exchange is started.
    started: usize,
    /// For each place, whether the gradients of all slots of this worker are complete.
    is_complete: Vec<bool>,
    /// The exchanges that are started and not waited for, in the order of their start.
    running: VecDeque<Running<'a>>,
    /// For each place, the sum, if there is a gradient in any slot.
    sums: Vec<Option<Vec<f32>>>,
}

struct Running<'a> {
    stage: Stage,
    block: Range<usize>,
    exchange: Box<dyn Exchange + 'a>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// The gradients of a block go to the workers that add them.
    Gradients,
    /// The sums of a block go to all workers.
    Sums,
}

impl<'a> HostSum<'a> {
    /// `order` lists all parameters, by index in the order of their names, in the order in which gradients become complete. It
    /// must be equal on all workers; `slots` too, the number of slots of each worker.
    pub(crate) fn new(
        parameters: &'a Parameters,
        order: Option<&[usize]>,
        slots: Vec<usize>,
        workers: &'a dyn Workers,
    ) -> Self {
        let most = slots.iter().copied().max().unwrap_or_default().max(1);
        Self::with_blocks(parameters, order, slots, workers, (BLOCK / most).max(1))
    }

    fn with_blocks(
        parameters: &'a Parameters,
        order: Option<&[usize]>,
        slots: Vec<usize>,
        workers: &'a dyn Workers,
        size: usize,
    ) -> Self {
        let count = parameters.iter().count();
        let (layout, mut places) = match order {
            Some(order) => (Layout::ordered(parameters, order), vec![0; count]),
            None => (Layout::new(parameters), (0..count).collect()),
        };
        for (place, parameter) in order.into_iter().flatten().enumerate() {
            places[*parameter] = place;
        }
        Self {
            workers,
            parameters,
            places,
            slots,
            blocks: layout.blocks(size).collect(),
            started: 0,
            is_complete: vec![false; count],
            running: VecDeque::new(),
            sums: (0..count).map(|place| layout.range(place).is_empty().then(Vec::new)).collect(),
            layout,
        }
    }

    /// Whether blocks can be sent before the last gradient is complete.
    pub(crate) fn overlaps(&self) -> bool {
        self.blocks.len() > 1 && self.parameters.iter().all(|(_, variable)| variable.device().is_cpu())
    }

    /// The gradient of a parameter, by its index in the order of the names, is complete in all of this worker's slots.
    pub(crate) fn complete(&mut self, parameter: usize) {
        self.is_complete[self.places[parameter]] = true;
    }

    /// Starts to send the blocks that are complete, and removes their gradients from `slots`.
    pub(crate) fn send(&mut self, slots: &mut [Gradients]) -> Result<()> {
        let complete = self.is_complete.iter().take_while(|complete| **complete).count();
        let numbers = (0..complete).last().map_or(0, |last| self.layout.range(last).end);
        while let Some(block) = self.blocks.get(self.started).filter(|block| block.end <= numbers).cloned() {
            self.start(&block, slots)?;
        }
        self.running.iter_mut().for_each(|running| running.exchange.progress());
        Ok(())
    }

    /// Sends what is left and waits for the sums. `slots` are the gradients of this worker that are not sent yet.
    pub(crate) fn finish(mut self, mut slots: Vec<Gradients>) -> Result<Gradients> {
        self.is_complete.fill(true);
        self.send(&mut slots)?;
        while self.end_first()? {}
        let mut gradients = Gradients::new();
        for (place, (name, variable)) in self.places.iter().zip(self.parameters.iter()) {
            if let Some(values) = self.sums[*place].take() {
                gradients.insert(name, Tensor::from_vec(values, variable.shape(), variable.device())?);
            }
        }
        Ok(gradients)
    }

    fn start(&mut self, block: &Range<usize>, slots: &mut [Gradients]) -> Result<()> {
        let is_gradients = |running: &&Running| running.stage == Stage::Gradients;
        // How many there are depends on the number of blocks alone, so that all workers do this at the same block.
        while self.running.iter().filter(is_gradients).count() >= RUNNING {
            self.end_first()?;
        }
        let (mut numbers, mut to) = (Vec::new(), Vec::new());
        for rank in 0..self.workers.count() {
            let (part, start) = (self.part(block, rank), numbers.len());
            for slot in slots.iter() {
                message::append(&self.layout, slot, &part, &mut numbers)?;
            }
            to.push(start..numbers.len());
        }
        let length = message::length(&self.layout, &self.part(block, self.workers.rank()))?;
        let from: Vec<usize> = self.slots.iter().map(|slots| slots * length).collect();
        self.run(Stage::Gradients, block, numbers, &to, &from)?;
        self.started += 1;
        let layout = &self.layout;
        layout.for_each_part(block, |place, _, _| {
            if layout.range(place).end <= block.end {
                slots.iter_mut().for_each(|slot| slot.remove(layout.names[place]));
            }
            Ok(())
        })
    }

    fn run(
        &mut self,
        stage: Stage,
        block: &Range<usize>,
        numbers: Vec<f32>,
        to: &[Range<usize>],
        from: &[usize],
    ) -> Result<()> {
        let exchange = self.workers.start_exchange(numbers, to, from).map_err(lost)?;
        self.running.push_back(Running { stage, block: block.clone(), exchange });
        Ok(())
    }

    /// Waits for the first exchange that was started; `false` if there is none.
    fn end_first(&mut self) -> Result<bool> {
        let Some(Running { stage, block, exchange }) = self.running.pop_front() else { return Ok(false) };
        let received = exchange.wait().map_err(lost)?;
        match stage {
            Stage::Gradients => {
                let sum = message::add(&self.layout, &self.part(&block, self.workers.rank()), &received)?;
                let to = vec![0..sum.len(); self.workers.count()];
                let lengths = (0..self.workers.count())
                    .map(|rank| message::length(&self.layout, &self.part(&block, rank)));
                let from = lengths.collect::<Result<Vec<_>>>()?;
                self.run(Stage::Sums, &block, sum, &to, &from)?;
            }
            Stage::Sums => self.store(&block, &received)?,
        }
        Ok(true)
    }

    /// Stores the sums of a block, which are the messages of all workers.
    fn store(&mut self, block: &Range<usize>, received: &[f32]) -> Result<()> {
        let mut rest = received;
        for rank in 0..self.workers.count() {
            let part = self.part(block, rank);
            let (message, after) = rest.split_at(message::length(&self.layout, &part)?);
            rest = after;
            message::store(&self.layout, &part, message, &mut self.sums)?;
        }
        Ok(())
    }

    fn part(&self, block: &Range<usize>, rank: usize) -> Range<usize> {
        part(block, rank, self.workers.count())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::thread;

    use candle_core::{Device, Var};

    use super::*;
    use crate::ThreadWorkers;
    use crate::workers::{share, sum_on_device};

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    /// Gradients of 5 slots: `a` with -0, missing in slot 0; `b` missing everywhere; `c` in every slot.
    fn slots() -> Vec<Gradients> {
        let c = |slot: usize| tensor(&[0.1, 1e8, -1e8, 3e-8, 7.0].map(|x| x * (slot as f32 + 0.3).sin()));
        let slot = |number| {
            let mut gradients = Gradients::from_iter([("c".to_owned(), c(number))]);
            if number > 0 {
                gradients.insert("a", tensor(&[-0.0, 0.1 * number as f32, -0.0]));
            }
            gradients
        };
        (0..5).map(slot).collect()
    }

    fn parameters() -> Parameters {
        let shapes = [("a", 3), ("b", 2), ("c", 5)];
        let variable = |len| Var::from_tensor(&tensor(&vec![0.0; len])).unwrap();
        Parameters::new(shapes.map(|(name, len)| (name.to_owned(), variable(len)))).unwrap()
    }

    fn bits(gradients: &Gradients) -> BTreeMap<String, Vec<u32>> {
        let bits =
            |gradient: &Tensor| gradient.to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
        gradients.iter().map(|(name, gradient)| (name.to_owned(), bits(gradient))).collect()
    }

    /// The sums of all workers on the host, with blocks of 1, 3 and 100 numbers, and on the device.
    fn sums(workers: &ThreadWorkers) -> Vec<Gradients> {
        let (parameters, count) = (parameters(), workers.count());
        let own = || slots()[workers.share(5)].to_vec();
        let missing = |rank| {
            let slots = slots()[share(5, rank, count)].to_vec();
            slots.iter().map(|slot| slot.missing_indices(&parameters)).collect::<Vec<_>>()
        };
        let missing: Vec<_> = (0..count).map(missing).collect();
        let mut sums = vec![sum_on_device(&parameters, own(), &missing, workers).unwrap()];
        for (order, size) in [(None, 1), (Some(&[2, 0, 1][..]), 3), (Some(&[1, 2, 0][..]), 100)] {
            let counts = missing.iter().map(Vec::len).collect();
            let mut sum = HostSum::with_blocks(&parameters, order, counts, workers, size);
            let mut own = own();
            // Every worker completes the gradients in another order.
            for step in 0..3 {
                sum.complete((step + workers.rank()) % 3);
                sum.send(&mut own).unwrap();
            }
            assert!(own.iter().all(Gradients::is_empty), "what is sent is freed");
            sums.push(sum.finish(own).unwrap());
        }
        sums
    }

    #[test]
    fn gradients_are_added_in_the_order_of_slots_with_any_number_of_workers_and_in_any_blocks() {
        let mut expected = Gradients::new();
        slots().iter().for_each(|slot| expected.add(slot).unwrap());
        let expected = bits(&expected);
        assert_eq!(expected["a"][0], (-0f32).to_bits(), "no 0 was added to -0");
        for count in 2..8 {
            let of_workers: Vec<Vec<Gradients>> = thread::scope(|scope| {
                let sums = |workers: ThreadWorkers| sums(&workers);
                let workers = ThreadWorkers::new(count).into_iter();
                let threads: Vec<_> = workers.map(|workers| scope.spawn(move || sums(workers))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            of_workers.iter().flatten().for_each(|sum| assert_eq!(bits(sum), expected, "{count} workers"));
        }
    }
}

//! The pass that the layers of a thread see, because candle's `Module::forward` has no argument for it.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

use train_ops::Pass;

thread_local! {
    static ENTERED: RefCell<Vec<(u64, Pass)>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Makes `pass` the pass of this thread until the guard is dropped: the layers that a
/// [`LayerBuilder`](crate::LayerBuilder) made train in it, with dropout masks from its keys, or run for inference.
///
/// Guards nest: the newest one that still exists counts, and without any a thread runs for inference. Other threads are not
/// affected, so one thread may train a model while another one generates with it. A thread that a forward pass starts itself
/// begins with inference; hand it [`current_pass`] and enter that there. A segment of [`train_ops::recompute`] runs again in the
/// backward pass, so it enters the pass itself.
///
/// ```
/// use trainable_nn::{Pass, current_pass, enter, sample_key};
///
/// let training = enter(Pass::training([sample_key(42, 0, 0)]));
/// assert!(current_pass().is_training());
/// {
///     let _evaluation = enter(Pass::inference());
///     assert!(!current_pass().is_training());
/// }
/// assert!(current_pass().is_training());
/// drop(training);
/// assert!(!current_pass().is_training());
/// ```
pub fn enter(pass: Pass) -> Entered {
    let id = NEXT.with(|next| next.replace(next.get() + 1));
    ENTERED.with_borrow_mut(|entered| entered.push((id, pass)));
    Entered { id, of_this_thread: PhantomData }
}

/// The pass that this thread has entered; [`Pass::inference`] if none.
pub fn current_pass() -> Pass {
    ENTERED.with_borrow(|entered| entered.last().map_or_else(Pass::inference, |(_, pass)| pass.clone()))
}

/// A guard of [`enter`]. It belongs to its thread.
#[derive(Debug)]
#[must_use = "the pass ends as soon as this is dropped"]
pub struct Entered {
    id: u64,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Guards may be dropped in any order. While a thread ends there is nothing left to remove from.
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().retain(|(id, _)| *id != self.id));
    }
}

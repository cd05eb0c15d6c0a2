use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

use crate::ForwardContext;

thread_local! {
    static ENTERED: RefCell<Vec<(u64, ForwardContext)>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Makes `ctx` the forward context of this thread until the guard is dropped. Layers without an argument for a
/// context, because they implement candle's `Module::forward`, use [`current_context`]. A
/// [`ForwardContext::inference`] made meanwhile belongs to the same pass.
///
/// Guards nest: the newest one that still exists counts, and without a guard a thread runs in inference mode.
/// Other threads are not affected, so one thread may train a model while another generates with it. A thread
/// that a forward pass starts begins in inference mode; pass it the [`current_context`] and enter that there. A
/// segment of [`recompute`](crate::recompute()) runs again in the backward pass, so it must enter the context
/// itself.
///
/// ```
/// use train_ops::{ForwardContext, current_context, enter, sample_key};
///
/// let training = enter(ForwardContext::training([sample_key(42, 0, 0)]));
/// assert!(current_context().is_training());
/// {
///     let _evaluation = enter(ForwardContext::inference());
///     assert!(!current_context().is_training());
/// }
/// assert!(current_context().is_training());
/// drop(training);
/// assert!(!current_context().is_training());
/// ```
pub fn enter(ctx: ForwardContext) -> Entered {
    let id = NEXT.with(|next| next.replace(next.get() + 1));
    ENTERED.with_borrow_mut(|entered| entered.push((id, ctx)));
    Entered { id, of_this_thread: PhantomData }
}

/// The forward context that this thread has entered; [`ForwardContext::inference`] if none.
pub fn current_context() -> ForwardContext {
    entered().unwrap_or_else(ForwardContext::inference)
}

/// The context that this thread has entered, if any.
pub(crate) fn entered() -> Option<ForwardContext> {
    ENTERED.with_borrow(|entered| entered.last().map(|(_, ctx)| ctx.clone()))
}

/// A guard of [`enter`]. It belongs to its thread.
#[derive(Debug)]
#[must_use = "the forward context ends as soon as this is dropped"]
pub struct Entered {
    id: u64,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Guards may be dropped in any order. While a thread ends, the list may be gone already.
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().retain(|(id, _)| *id != self.id));
    }
}

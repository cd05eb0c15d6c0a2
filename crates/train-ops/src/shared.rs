use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::ForwardContext;

/// A value that several layers share and that may be replaced at any time. All layers of a pass read the same
/// version of it.
///
/// ```
/// use train_ops::{ForwardContext, Shared};
///
/// let weights = Shared::new("old");
/// let pass = ForwardContext::inference();
/// assert_eq!(*weights.in_pass(&pass), "old");
/// weights.replace("new");
/// assert_eq!(*weights.in_pass(&pass), "old");
/// assert_eq!(*weights.in_pass(&ForwardContext::inference()), "new");
/// ```
#[derive(Debug)]
pub struct Shared<T> {
    id: u64,
    current: RwLock<Arc<T>>,
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Shares `value`.
    pub fn new(value: T) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(COPIES + 1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), current: RwLock::new(Arc::new(value)) }
    }

    /// The current value.
    pub fn get(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The value for the pass `ctx`: the one that was current at the first call in this pass.
    pub fn in_pass(&self, ctx: &ForwardContext) -> Arc<T> {
        ctx.held.value(self.id, || self.get())
    }

    /// Replaces the value. Passes that have read the old value keep it.
    pub fn replace(&self, value: T) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }

    /// Replaces the value by the result of `change`, atomically with respect to other changes. If `change`
    /// fails, the value stays.
    ///
    /// # Errors
    /// The errors of `change`.
    pub fn update<E>(&self, change: impl FnOnce(&T) -> Result<T, E>) -> Result<(), E> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(change(&current)?);
        Ok(())
    }
}

/// Stands in the list of a pass for the parameters that it has copied; no [`Shared`] has this id.
const COPIES: u64 = 0;

/// The shared values that a pass has read, by the ids of their [`Shared`]. Clones share the list.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Vec<(u64, AnyValue)>>>);

type AnyValue = Arc<dyn Any + Send + Sync>;

impl Held {
    fn value<T: Send + Sync + 'static>(&self, id: u64, current: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = values.iter().find(|(other, _)| *other == id).map(|(_, value)| value.clone());
        // An id belongs to one type.
        if let Some(value) = known.and_then(|value| value.downcast().ok()) {
            return value;
        }
        let value = current();
        values.push((id, value.clone()));
        value
    }

    /// Notes that the pass uses copies of parameters, which no other pass has. Parameters have no version that could be compared.
    pub(crate) fn hold_copies(&self) {
        self.value(COPIES, || Arc::new(()));
    }
}

/// The same values, in the order in which they were read.
impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.0, &other.0) {
            return true;
        }
        // One list is locked at a time, so that two threads cannot wait for each other.
        let others = other.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |((id, value), (other, of_other)): (&(u64, AnyValue), &(u64, AnyValue))| {
            id == other && Arc::ptr_eq(value, of_other)
        };
        own.len() == others.len() && own.iter().zip(&others).all(same)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(values.iter().map(|(id, _)| id)).finish()
    }
}

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    current: RwLock<Version<T>>,
}

/// A value of a [`Shared`].
#[derive(Debug)]
struct Version<T: ?Sized> {
    value: Arc<T>,
    /// Whether another value has taken its place.
    is_replaced: Arc<AtomicBool>,
}

impl<T> Version<T> {
    fn new(value: T) -> Self {
        Self { value: Arc::new(value), is_replaced: Arc::default() }
    }

    /// Puts `value` in the place of this one.
    fn replace(&mut self, value: T) {
        let old = std::mem::replace(self, Self::new(value));
        old.is_replaced.store(true, Ordering::Release);
    }
}

impl<T: ?Sized> Clone for Version<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), is_replaced: Arc::clone(&self.is_replaced) }
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Shares `value`.
    pub fn new(value: T) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(COPIES + 1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), current: RwLock::new(Version::new(value)) }
    }

    /// The current value.
    pub fn get(&self) -> Arc<T> {
        self.version().value
    }

    fn version(&self) -> Version<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The value for the pass `ctx`: the one that was current at the first call in this pass.
    pub fn in_pass(&self, ctx: &ForwardContext) -> Arc<T> {
        ctx.held.value(self.id, || self.version())
    }

    /// Replaces the value. Passes that have read the old value keep it.
    pub fn replace(&self, value: T) {
        self.current.write().unwrap_or_else(PoisonError::into_inner).replace(value);
    }

    /// Replaces the value by the result of `change`, atomically with respect to other changes. If `change`
    /// fails, the value stays.
    ///
    /// # Errors
    /// The errors of `change`.
    pub fn update<E>(&self, change: impl FnOnce(&T) -> Result<T, E>) -> Result<(), E> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&current.value)?;
        current.replace(changed);
        Ok(())
    }
}

/// Stands in the list of a pass for the parameters that it has copied; no [`Shared`] has this id.
const COPIES: u64 = 0;

/// The shared values that a pass has read, by the ids of their [`Shared`]. Clones share the list.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Vec<(u64, AnyVersion)>>>);

type AnyVersion = Version<dyn Any + Send + Sync>;

impl Held {
    fn value<T: Send + Sync + 'static>(&self, id: u64, current: impl FnOnce() -> Version<T>) -> Arc<T> {
        let mut versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = versions.iter().find(|(other, _)| *other == id).map(|(_, version)| version.value.clone());
        // An id belongs to one type.
        if let Some(value) = known.and_then(|value| value.downcast().ok()) {
            return value;
        }
        let Version { value, is_replaced } = current();
        versions.push((id, Version { value: value.clone(), is_replaced }));
        value
    }

    /// Notes that the pass uses copies of parameters, which no other pass has. Parameters have no version that could be compared.
    pub(crate) fn hold_copies(&self) {
        self.value(COPIES, || Version::new(()));
    }

    /// Whether none of the values has been replaced.
    pub(crate) fn are_current(&self) -> bool {
        let versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        versions.iter().all(|(_, version)| !version.is_replaced.load(Ordering::Acquire))
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
        let same = |((id, version), (other, of_other)): (&(u64, AnyVersion), &(u64, AnyVersion))| {
            id == other && Arc::ptr_eq(&version.value, &of_other.value)
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

/// The pointer to a result that tasks write disjoint parts of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedPointer(pub(crate) *mut f32);

// SAFETY: tasks write to parts that do not overlap; nothing else accesses the result while they run.
#[allow(unsafe_code)]
unsafe impl Send for SharedPointer {}
#[allow(unsafe_code)]
unsafe impl Sync for SharedPointer {}

impl SharedPointer {
    #[inline]
    pub(crate) fn pointer(&self) -> *mut f32 {
        self.0
    }
}

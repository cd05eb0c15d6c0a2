use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor, Var};

use crate::ForwardContext;

/// A place where the graph of a pass is cut: what comes after uses `input`, a variable with the value of `output`.
#[derive(Clone, Debug)]
pub struct GraphCut {
    /// The result of the part before the cut, with its graph.
    pub output: Tensor,
    /// A variable with the same value.
    pub input: Tensor,
}

/// The cuts of a pass so far, in the order of the forward pass. `None` if no more are wanted. Clones share the list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cuts(Arc<Mutex<Option<Vec<GraphCut>>>>);

impl ForwardContext {
    /// The context with its graph cut wherever a model calls [`cut`](Self::cut), so that the backward pass can run segment by
    /// segment. [`take_cuts`](Self::take_cuts) returns the cuts.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use train_ops::ForwardContext;
    ///
    /// let weight = Var::new(&[2f32, 3.], &Device::Cpu)?;
    /// let ctx = ForwardContext::training([1]).with_cuts();
    /// let hidden = ctx.cut(&weight.sqr()?)?;
    /// let loss = hidden.sum_all()?;
    /// let cuts = ctx.take_cuts();
    /// let gradients = loss.backward()?;
    /// assert!(gradients.get(&weight).is_none());
    /// let of_hidden = gradients.get(&cuts[0].input).map(|gradient| gradient.to_vec1::<f32>()).transpose()?;
    /// assert_eq!(of_hidden, Some(vec![1., 1.]));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn with_cuts(mut self) -> Self {
        self.cuts = Cuts(Arc::new(Mutex::new(Some(Vec::new()))));
        self
    }

    /// Cuts the graph at `hidden`, which everything that comes after in the pass uses instead of its parts: returns a variable
    /// with the same value. Without [`with_cuts`](Self::with_cuts), or if `hidden` has no graph, returns `hidden`.
    ///
    /// # Errors
    /// If the value cannot be copied.
    pub fn cut(&self, hidden: &Tensor) -> Result<Tensor> {
        let mut cuts = self.cuts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cuts) = cuts.as_mut().filter(|_| hidden.track_op() && !hidden.is_variable()) else {
            return Ok(hidden.clone());
        };
        let input = Var::from_tensor(&hidden.detach())?.into_inner();
        cuts.push(GraphCut { output: hidden.clone(), input: input.clone() });
        Ok(input)
    }

    /// The cuts of this pass, in the order of the forward pass. Afterwards [`cut`](Self::cut) cuts no more, so that
    /// [`recompute`](crate::recompute()) has whole graphs in the backward pass.
    pub fn take_cuts(&self) -> Vec<GraphCut> {
        self.cuts.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

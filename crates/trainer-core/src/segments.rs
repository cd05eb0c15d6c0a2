//! Backward passes in segments, so that the first gradients are complete while others are still to be computed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, TensorId};

use crate::{LossSum, Parameters, Result};

/// A place where a task cuts the graph of its loss: what comes after uses `input`, a variable with the value of `output`.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The result of the part before the cut, with its graph.
    pub output: Tensor,
    /// A variable with the same value.
    pub input: Tensor,
}

/// The loss of a micro-batch whose graph is cut into segments, for example between the layers of a model.
///
/// The engine runs the backward pass segment by segment, beginning with the loss, and so knows the gradients of the last
/// layers while those of the first are not yet computed. The gradients have the bits of an uncut graph if the segments
/// share no nodes but variables.
#[derive(Clone, Debug)]
pub struct Segments {
    /// The loss. Its graph ends at the inputs of the last cuts.
    pub loss: LossSum,
    /// In the order of the forward pass. Without cuts, the graph is one segment.
    pub cuts: Vec<Cut>,
}

impl From<LossSum> for Segments {
    fn from(loss: LossSum) -> Self {
        Self { loss, cuts: Vec::new() }
    }
}

/// The gradients that a segment completes: parameters by index, in ascending order, with their gradients if they have one.
pub(crate) type Complete = Vec<(usize, Option<Tensor>)>;

/// Runs the backward pass of `loss`, from the last segment to the first. Calls `complete` after each segment.
pub(crate) fn backward(
    loss: Tensor,
    mut cuts: Vec<Cut>,
    parameters: &Parameters,
    mut complete: impl FnMut(Complete) -> Result<()>,
) -> Result<()> {
    let uses = uses(&loss, &cuts, parameters);
    let inputs: Vec<TensorId> = cuts.iter().map(|cut| cut.input.id()).collect();
    let mut sums: HashMap<usize, Tensor> = HashMap::new();
    let mut of_inputs: HashMap<TensorId, Tensor> = HashMap::new();
    let mut loss = Some(loss);
    let mut is_complete = vec![false; uses.first_segments.len()];
    for segment in (0..=inputs.len()).rev() {
        // From here on, the graph of the segment is only in this root, and is freed with it.
        let root = match inputs.get(segment) {
            None => loss.take(),
            Some(input) => {
                let cut = cuts.pop();
                let gradient = of_inputs.remove(input);
                cut.zip(gradient).map(|(cut, gradient)| seeded(&cut.output, gradient)).transpose()?
            }
        };
        if let Some(mut root) = root {
            for parameter in &uses.by_segment[segment] {
                // Candle adds to the sum of the later segments, in the order of the uncut graph: it visits the second summand
                // of a node first.
                if let Some(sum) = sums.remove(parameter) {
                    root = (root + seeded(uses.variables[*parameter], sum)?)?;
                }
            }
            let mut store = root.backward()?;
            drop(root);
            for parameter in &uses.by_segment[segment] {
                if let Some(gradient) = store.remove(uses.variables[*parameter]) {
                    sums.insert(*parameter, gradient.detach());
                }
            }
            for cut in &cuts {
                if let Some(gradient) = store.remove(&cut.input) {
                    let gradient = match of_inputs.remove(&cut.input.id()) {
                        Some(sum) => (sum + gradient)?,
                        None => gradient,
                    };
                    of_inputs.insert(cut.input.id(), gradient.detach());
                }
            }
        }
        let due = (0..is_complete.len())
            .filter(|parameter| uses.first_segments[*parameter].is_none_or(|first| first >= segment))
            .filter(|parameter| !std::mem::replace(&mut is_complete[*parameter], true));
        complete(due.map(|parameter| (parameter, sums.remove(&parameter))).collect())?;
    }
    Ok(())
}

/// Which segments use which parameters.
struct Uses<'a> {
    variables: Vec<&'a Tensor>,
    /// The first segment that uses each parameter, in the order of the forward pass. It is the last one of the backward pass.
    first_segments: Vec<Option<usize>>,
    by_segment: Vec<Vec<usize>>,
}

fn uses<'a>(loss: &Tensor, cuts: &[Cut], parameters: &'a Parameters) -> Uses<'a> {
    let variables: Vec<&Tensor> = parameters.iter().map(|(_, variable)| variable.as_tensor()).collect();
    let indices: HashMap<TensorId, usize> =
        variables.iter().enumerate().map(|(index, variable)| (variable.id(), index)).collect();
    let mut first_segments = vec![None; variables.len()];
    let roots = cuts.iter().map(|cut| &cut.output).chain([loss]);
    let used = |(segment, root): (usize, &Tensor)| {
        let mut used: Vec<usize> =
            root.sorted_nodes().iter().filter_map(|node| indices.get(&node.id()).copied()).collect();
        used.sort_unstable();
        used.dedup();
        for parameter in &used {
            first_segments[*parameter].get_or_insert(segment);
        }
        used
    };
    let by_segment = roots.enumerate().map(used).collect();
    Uses { variables, first_segments, by_segment }
}

/// A scalar whose backward pass gives `tensor` the gradient `gradient`.
fn seeded(tensor: &Tensor, gradient: Tensor) -> candle_core::Result<Tensor> {
    tensor.apply_op1(Seed(Mutex::new(Some(gradient))))
}

struct Seed(Mutex<Option<Tensor>>);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _tensor: &Tensor, _scalar: &Tensor, _grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).take())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn variable(seed: f32) -> Var {
        let values: Vec<f32> = (0..16).map(|index| (index as f32 * 1.7 + seed).sin()).collect();
        Var::from_vec(values, (4, 4), &Device::Cpu).unwrap()
    }

    /// Three layers, of which the last two share the weight `b`, the first uses it twice more, and `unused` is in none.
    fn forward(parameters: &Parameters, cut: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let weight = |name: &str| parameters.get(name).unwrap().as_tensor();
        let layer = |xs: &Tensor, name: &str| xs.matmul(weight(name)).unwrap().tanh().unwrap();
        let xs = variable(9.0).as_detached_tensor();
        let hidden = layer(&layer(&layer(&xs, "b"), "a"), "b");
        // A residual: the first use of the cut's variable is not its last.
        let hidden = cut(&hidden);
        let hidden = (layer(&hidden, "b") + &hidden).unwrap();
        let hidden = cut(&hidden);
        layer(&(layer(&hidden, "b") * weight("c")).unwrap(), "b").sqr().unwrap().sum_all().unwrap()
    }

    fn bits(gradient: &Tensor) -> Vec<u32> {
        let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn segments_have_the_gradients_of_the_uncut_graph_and_complete_them_after_their_last_use() {
        let names = ["a", "b", "c", "unused"];
        let variables =
            names.map(|name| (name.to_owned(), variable(name.len() as f32 + name.as_bytes()[0] as f32)));
        let parameters = Parameters::new(variables).unwrap();
        let uncut = forward(&parameters, Tensor::clone).backward().unwrap();
        let cuts = Mutex::new(Vec::new());
        let loss = forward(&parameters, |output| {
            let input = Var::from_tensor(&output.detach()).unwrap().into_inner();
            cuts.lock().unwrap().push(Cut { output: output.clone(), input: input.clone() });
            input
        });
        let mut order = Vec::new();
        backward(loss, cuts.into_inner().unwrap(), &parameters, |complete| {
            order.push(complete.iter().map(|(parameter, _)| names[*parameter]).collect::<Vec<_>>());
            for (parameter, gradient) in complete {
                let expected = uncut.get(parameters.get(names[parameter]).unwrap());
                assert_eq!(gradient.as_ref().map(bits), expected.map(bits), "{}", names[parameter]);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(order, [vec!["c", "unused"], vec![], vec!["a", "b"]]);
    }
}

//! Backward passes in segments, so that the first gradients are complete while others are still to be computed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, TensorId};

use crate::{Gradients, LossSum, Parameters, Result};

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

impl Segments {
    /// Runs the backward pass, segment by segment, on the CPU. Gradients are those of the sum of the losses.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle).
    pub fn gradients(self, parameters: &Parameters) -> Result<Gradients> {
        let names: Vec<&str> = parameters.iter().map(|(name, _)| name).collect();
        let mut gradients = Gradients::new();
        backward(self.loss.sum, self.cuts, parameters, |complete| {
            for (parameter, gradient) in complete {
                gradient.into_iter().for_each(|gradient| {
                    gradients.insert(names[parameter], gradient);
                });
            }
            Ok(())
        })?;
        Ok(gradients)
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
    let uses = Uses::of(&loss, &cuts, parameters);
    let (mut loss, last) = (Some(loss), cuts.len());
    let mut sums: HashMap<usize, Tensor> = HashMap::new();
    let mut is_complete = vec![false; uses.parameters];
    for segment in (0..=last).rev() {
        // From here on, the graph of the segment is only in this root, and is freed with it.
        let root = if segment == last {
            loss.take()
        } else {
            let gradient = sums.remove(&(uses.parameters + segment));
            let seed = |(cut, gradient): (Cut, Tensor)| seeded(&cut.output, gradient);
            cuts.pop().zip(gradient).map(seed).transpose()?
        };
        if let Some(root) = root {
            add_segment(root, &uses.by_segment[segment], &uses.variables, &mut sums)?;
        }
        let due = (0..uses.parameters)
            .filter(|parameter| uses.first_segments[*parameter].is_none_or(|first| first >= segment))
            .filter(|parameter| !std::mem::replace(&mut is_complete[*parameter], true));
        complete(due.map(|parameter| (parameter, sums.remove(&parameter))).collect())?;
    }
    Ok(())
}

/// Adds the gradients of one segment with the scalar result `root` to the sums of those variables that it uses.
fn add_segment(
    mut root: Tensor,
    used: &[usize],
    variables: &[Tensor],
    sums: &mut HashMap<usize, Tensor>,
) -> Result<()> {
    // Candle begins with the sums of the later segments, and so adds in the order of the uncut graph: in the backward pass, it
    // visits the second summand of a node first.
    for variable in used {
        if let Some(sum) = sums.remove(variable) {
            root = (root + seeded(&variables[*variable], sum)?)?;
        }
    }
    let mut store = root.backward()?;
    for variable in used {
        if let Some(gradient) = store.remove(&variables[*variable]) {
            sums.insert(*variable, gradient.detach());
        }
    }
    Ok(())
}

/// Which segments use which variables: the parameters, and after them the inputs of the cuts.
struct Uses {
    variables: Vec<Tensor>,
    /// The number of parameters.
    parameters: usize,
    /// The first segment that uses each variable, in the order of the forward pass. It is the last one of the backward pass.
    first_segments: Vec<Option<usize>>,
    /// The variables of each segment.
    by_segment: Vec<Vec<usize>>,
}

impl Uses {
    fn of(loss: &Tensor, cuts: &[Cut], parameters: &Parameters) -> Self {
        let parameters = parameters.iter().map(|(_, variable)| variable.as_tensor().clone());
        let mut variables: Vec<Tensor> = parameters.collect();
        let parameters = variables.len();
        variables.extend(cuts.iter().map(|cut| cut.input.clone()));
        let indices: HashMap<TensorId, usize> =
            variables.iter().enumerate().map(|(index, variable)| (variable.id(), index)).collect();
        let mut first_segments = vec![None; variables.len()];
        let used = |(segment, root): (usize, &Tensor)| {
            let nodes = root.sorted_nodes();
            let mut used: Vec<usize> =
                nodes.iter().filter_map(|node| indices.get(&node.id()).copied()).collect();
            used.sort_unstable();
            used.dedup();
            for variable in &used {
                first_segments[*variable].get_or_insert(segment);
            }
            used
        };
        let roots = cuts.iter().map(|cut| &cut.output).chain([loss]);
        let by_segment = roots.enumerate().map(used).collect();
        Self { variables, parameters, first_segments, by_segment }
    }
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

    /// Three segments that share the weight `b`, which the first one uses twice; `unused` is in none. The last two use `states`
    /// twice each.
    fn forward(parameters: &Parameters, cut: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let weight = |name: &str| parameters.get(name).unwrap().as_tensor();
        let layer = |xs: &Tensor, name: &str| xs.matmul(weight(name)).unwrap().tanh().unwrap();
        let xs = variable(9.0).as_detached_tensor();
        let states = cut(&layer(&layer(&layer(&xs, "b"), "a"), "b"));
        let attended = |hidden: &Tensor| {
            let [key, value] = ["b", "c"].map(|name| states.tanh().unwrap().matmul(weight(name)).unwrap());
            ((hidden * key).unwrap() + value).unwrap()
        };
        let hidden = cut(&attended(&layer(&states, "b")));
        attended(&layer(&hidden, "b")).sqr().unwrap().sum_all().unwrap()
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
        assert_eq!(order, [vec!["unused"], vec!["c"], vec!["a", "b"]]);
    }
}

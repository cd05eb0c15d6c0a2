//! The frozen vision encoder as CUDA graphs, one for each number of pictures, for runs that do not cache image features.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use caption_model::CaptionModel;
use train_ops::{DeviceGraph, Run};
use trainer_core::BoxError;

use crate::features::encode;

/// The largest number of graphs. Other numbers of pictures are encoded without a graph.
const MOST_GRAPHS: usize = 8;

/// The graphs of a model's vision encoder.
#[derive(Debug, Default)]
pub(crate) struct VisionGraphs(Mutex<HashMap<Vec<usize>, State>>);

#[derive(Debug)]
enum State {
    /// The shape has occurred once.
    Seen,
    Recorded(Box<Recorded>),
    Refused,
}

#[derive(Debug)]
struct Recorded {
    pixel_values: Tensor,
    graph: DeviceGraph,
}

impl VisionGraphs {
    /// The features of pictures `(batch, channels, size, size)`. A graph is recorded when a shape occurs for the second time. The next
    /// call may write its features to the same memory. The second result is the error of a recording that failed.
    ///
    /// # Errors
    /// If the pictures do not fit the model, or the device fails.
    pub(crate) fn encode(
        &self,
        model: &dyn CaptionModel,
        pixel_values: &Tensor,
    ) -> Result<(Tensor, Option<candle_core::Error>), BoxError> {
        let mut graphs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shape = pixel_values.dims();
        let mut refused = None;
        match graphs.get(shape) {
            Some(State::Recorded(recorded)) => {
                recorded.pixel_values.slice_set(&pixel_values.contiguous()?, 0, 0)?;
            }
            Some(State::Seen) => {
                let state = record(model, pixel_values.copy()?).unwrap_or_else(|error| {
                    refused = Some(error);
                    State::Refused
                });
                graphs.insert(shape.to_vec(), state);
            }
            None if graphs.len() < MOST_GRAPHS => {
                graphs.insert(shape.to_vec(), State::Seen);
            }
            Some(State::Refused) | None => {}
        }
        let Some(State::Recorded(recorded)) = graphs.get(shape) else {
            return Ok((encode(model, pixel_values)?, refused));
        };
        let results = recorded.graph.replay(&train_ops::ForwardContext::inference(), &[])?;
        let features = results.first().ok_or("the graph of the vision encoder has no features")?;
        Ok((features.clone(), None))
    }
}

fn record(model: &dyn CaptionModel, pixel_values: Tensor) -> candle_core::Result<State> {
    let work = |_: Run| {
        encode(model, &pixel_values)
            .map(|features| vec![features])
            .map_err(|error| candle_core::Error::msg(format!("{error:#}")))
    };
    let graph = DeviceGraph::record(model.device(), work)?;
    Ok(State::Recorded(Box::new(Recorded { pixel_values, graph })))
}

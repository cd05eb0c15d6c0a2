//! Recurrent networks.

use candle_core::Result;
pub use candle_nn::rnn::{Direction, GRU, GRUConfig, GRUState, LSTM, LSTMConfig, LSTMState, RNN};

use crate::VarBuilder;

/// A long short-term memory.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn lstm(in_dim: usize, hidden_dim: usize, config: LSTMConfig, vb: VarBuilder<'_>) -> Result<LSTM> {
    candle_nn::lstm(in_dim, hidden_dim, config, vb.to_candle())
}

/// A gated recurrent unit.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn gru(in_dim: usize, hidden_dim: usize, config: GRUConfig, vb: VarBuilder<'_>) -> Result<GRU> {
    candle_nn::gru(in_dim, hidden_dim, config, vb.to_candle())
}

//! Rate changes by rubato, as a stream whose output stands on the time line of its input.
//!
//! Two kinds are used. Where the two rates have a small common multiple (all rates that devices and
//! recordings really have), the FFT resampler: it is exact, and cheap. For odd rates, whose FFT block would
//! be up to a second long, the windowed sinc interpolator.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{
    Async, Fft, FixedAsync, FixedSync, SincInterpolationParameters, SincInterpolationType, WindowFunction,
};

/// How much longer than wished an FFT block may be before the sinc interpolator is taken instead.
const MAX_STRETCH: usize = 2;

/// A rate change failed; only a fault in this program can cause it.
#[derive(Debug, thiserror::Error)]
pub enum ResampleError {
    #[error("no resampler from {from_hz} Hz to {to_hz} Hz")]
    Construct { from_hz: u32, to_hz: u32, source: rubato::ResamplerConstructionError },
    #[error("resampling a block")]
    Process(#[source] rubato::ResampleError),
    #[error("a block does not fit its buffer")]
    Buffer,
}

/// Changes the rate of a mono stream. Output sample `k` is the sound of the instant `k / to_hz` of the input:
/// the filter's own delay is cut off the start, and comes back as look-ahead (see [`Self::look_ahead`]).
pub struct Resampler {
    inner: Box<dyn rubato::Resampler<f32>>,
    /// Input not yet processed: less than one block.
    waiting: Vec<f32>,
    block: Vec<f32>,
    /// Start-up samples still to be cut off.
    to_trim: usize,
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resampler").field("ratio", &self.inner.resample_ratio()).finish_non_exhaustive()
    }
}

impl Resampler {
    /// `block_out` is the wished length of a block in output samples; the filter is as long as a block.
    ///
    /// # Errors
    /// [`ResampleError::Construct`] for a rate of 0.
    pub fn new(
        from_hz: u32,
        to_hz: u32,
        block_out: usize,
        window: WindowFunction,
    ) -> Result<Self, ResampleError> {
        let fail = |source| ResampleError::Construct { from_hz, to_hz, source };
        let common = greatest_common_divisor(from_hz, to_hz).max(1);
        let (unit_in, unit_out) = ((from_hz / common) as usize, (to_hz / common) as usize);
        let units = block_out.div_ceil(unit_out.max(1)).max(1);
        let inner: Box<dyn rubato::Resampler<f32>> = if units * unit_out <= block_out * MAX_STRETCH {
            let fft = Fft::<f32>::new_custom(
                from_hz as usize,
                to_hz as usize,
                units * unit_in,
                1,
                1,
                window,
                FixedSync::Both,
            );
            Box::new(fft.map_err(fail)?)
        } else {
            let parameters = SincInterpolationParameters::new(256, window)
                .oversampling_factor(256)
                .interpolation(SincInterpolationType::Cubic);
            let ratio = f64::from(to_hz) / f64::from(from_hz);
            let block_in = ((from_hz / 100) as usize).max(1);
            let sinc = Async::<f32>::new_sinc(ratio, 1.0, &parameters, block_in, 1, FixedAsync::Input);
            Box::new(sinc.map_err(fail)?)
        };
        let block = vec![0.0; inner.output_frames_max()];
        let waiting = Vec::with_capacity(inner.input_frames_max() * 2);
        let to_trim = inner.output_delay();
        Ok(Self { inner, waiting, block, to_trim })
    }

    /// Input samples that must follow an instant before it comes out, at most.
    pub fn look_ahead(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few hundred samples, never negative"
        )]
        let delay = (self.inner.output_delay() as f64 / self.inner.resample_ratio()).ceil() as usize;
        delay + self.inner.input_frames_max()
    }

    /// Appends to `out` the samples that `input` completes. Allocates only while `out` grows.
    ///
    /// # Errors
    /// Only after a fault in this program.
    pub fn push(&mut self, input: &[f32], out: &mut Vec<f32>) -> Result<(), ResampleError> {
        self.waiting.extend_from_slice(input);
        let mut used = 0;
        loop {
            let need = self.inner.input_frames_next();
            let Some(block_in) = self.waiting.get(used..used + need) else { break };
            let room = self.block.len();
            let from = SequentialSlice::new(block_in, 1, need).map_err(|_| ResampleError::Buffer)?;
            let mut to =
                SequentialSlice::new_mut(&mut self.block, 1, room).map_err(|_| ResampleError::Buffer)?;
            let (_, made) =
                self.inner.process_into_buffer(&from, &mut to, None).map_err(ResampleError::Process)?;
            used += need;
            let cut = self.to_trim.min(made);
            self.to_trim -= cut;
            out.extend_from_slice(self.block.get(cut..made).unwrap_or_default());
        }
        self.waiting.drain(..used);
        Ok(())
    }

    /// Forgets all sound: the next sample is the first.
    pub fn reset(&mut self) {
        self.inner.reset();
        self.waiting.clear();
        self.to_trim = self.inner.output_delay();
    }
}

/// The whole of a short recording at another rate; the output covers exactly the time of the input.
///
/// # Errors
/// As [`Resampler::new`] and [`Resampler::push`].
pub fn resample_all(samples: &[f32], from_hz: u32, to_hz: u32) -> Result<Vec<f32>, ResampleError> {
    if from_hz == to_hz {
        return Ok(samples.to_vec());
    }
    let length = (samples.len() as u128 * u128::from(to_hz)).div_ceil(u128::from(from_hz.max(1)));
    let length = usize::try_from(length).map_err(|_| ResampleError::Buffer)?;
    let mut resampler =
        Resampler::new(from_hz, to_hz, to_hz.div_ceil(50) as usize, WindowFunction::Blackman2)?;
    let mut out = Vec::with_capacity(length + resampler.block.len());
    resampler.push(samples, &mut out)?;
    let silence = vec![0.0; resampler.look_ahead()];
    while out.len() < length {
        resampler.push(&silence, &mut out)?;
    }
    out.truncate(length);
    Ok(out)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

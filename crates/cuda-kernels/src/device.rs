//! Runs the kernels on candle's CUDA devices.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, result,
};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
use half::bf16;

pub use crate::graph::{Capture, LaunchGraph};
pub use crate::overwrite::overwrite;
use crate::{Element, Launch, Pointer};

/// The kernels for one type of activations on one device.
#[derive(Clone, Debug)]
pub struct Kernels {
    device: CudaDevice,
    element: Element,
}

/// Tensor cores for bf16 came with compute capability 8.0.
const OLDEST: i32 = 8;
/// Dynamic shared memory that every block may use; more needs an attribute of the function.
const SHARED_BYTES: u32 = 48 * 1024;
/// Words of the longest argument of a kernel.
const WORDS: usize = 48;

/// An argument as memory that the driver copies. It reads as much as the kernel's own argument is long.
#[repr(C)]
struct Argument([u64; WORDS]);

// SAFETY: plain words.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Argument {}

impl Kernels {
    /// The kernels for tensors like this one: f32 or bf16 on a CUDA device of compute capability 8.0 or newer.
    pub fn of(tensor: &Tensor) -> Option<Self> {
        let element = match tensor.dtype() {
            DType::F32 => Element::F32,
            DType::BF16 => Element::Bf16,
            _ => return None,
        };
        Self::on(tensor.device(), element)
    }

    /// The kernels for activations of this type on this device, if it is a CUDA device of compute capability 8.0 or newer.
    pub fn on(device: &Device, element: Element) -> Option<Self> {
        let device = device.as_cuda_device().ok()?;
        is_new(device).then(|| Self { device: device.clone(), element })
    }

    /// Whether there are kernels for this device: a CUDA device of compute capability 8.0 or newer.
    pub fn are_for(device: &Device) -> bool {
        device.as_cuda_device().is_ok_and(is_new)
    }

    /// The type of activations.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The device.
    pub fn device_id(&self) -> DeviceId {
        self.device.id()
    }

    /// Whether a tensor is on this device, of this type, contiguous, and begins at a multiple of 16 bytes.
    pub fn serve(&self, tensor: &Tensor) -> bool {
        let same = |device: &CudaDevice| device.id() == self.device.id();
        let aligned = |(start, _): (usize, usize)| start.is_multiple_of(self.element.vector());
        Self::of(tensor).is_some_and(|other| other.element == self.element && same(&other.device))
            && tensor.layout().contiguous_offsets().is_some_and(aligned)
    }

    /// Whether a tensor is on this device.
    pub fn is_on_device(&self, tensor: &Tensor) -> bool {
        tensor.device().as_cuda_device().is_ok_and(|device| device.id() == self.device.id())
    }

    /// The addresses of contiguous tensors, for tables that kernels read. Pass the same tensors to [`run`](Self::run), which
    /// waits for what other streams do with them.
    ///
    /// # Errors
    /// If a tensor is on another device or not contiguous.
    pub fn addresses(&self, tensors: &[&Tensor]) -> Result<Vec<Pointer>> {
        let mut addresses = Vec::new();
        self.with_inputs(tensors, &mut Vec::new(), &mut |found| {
            addresses = found.to_vec();
            Ok(())
        })?;
        Ok(addresses)
    }

    /// Memory for `count` activations, not initialised.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn activations(&self, count: usize) -> Result<CudaStorage> {
        match self.element {
            Element::F32 => self.floats(count),
            Element::Bf16 => {
                // SAFETY: the kernels write every element before any is read.
                #[allow(unsafe_code)]
                let slice = unsafe { self.device.alloc::<bf16>(count) }?;
                Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
            }
        }
    }

    /// Memory for `count` f32, not initialised.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn floats(&self, count: usize) -> Result<CudaStorage> {
        // SAFETY: the kernels write every element before any is read.
        #[allow(unsafe_code)]
        let slice = unsafe { self.device.alloc::<f32>(count) }?;
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }

    /// Memory for `count` f64, not initialised.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn doubles(&self, count: usize) -> Result<CudaStorage> {
        // SAFETY: the kernels write every element before any is read.
        #[allow(unsafe_code)]
        let slice = unsafe { self.device.alloc::<f64>(count) }?;
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }

    /// Numbers of 32 bits on the device.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub fn numbers(&self, numbers: &[u32]) -> Result<Tensor> {
        Tensor::new(numbers, &Device::Cuda(self.device.clone()))
    }

    /// Numbers of 64 bits on the device. Candle has no u64; the bits are those of i64.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub fn words(&self, words: &[u64]) -> Result<Tensor> {
        let bits: Vec<i64> = words.iter().map(|word| word.cast_signed()).collect();
        Tensor::new(bits, &Device::Cuda(self.device.clone()))
    }

    /// A tensor of that memory, outside of any graph.
    pub fn tensor(storage: CudaStorage, shape: &Shape) -> Tensor {
        Tensor::from_storage(Storage::Cuda(storage), shape.clone(), BackpropOp::none(), false)
    }

    /// Runs the launches that `launches` makes from the addresses of `inputs`, which are contiguous, and `outputs`.
    ///
    /// # Errors
    /// If a tensor is on another device or not contiguous, a launch cannot be made, or the driver refuses it.
    ///
    /// # Safety
    /// The launches must fit the memory: see [`Launch`].
    #[allow(unsafe_code)]
    pub unsafe fn run(
        &self,
        inputs: &[&Tensor],
        outputs: &mut [&mut CudaStorage],
        launches: impl FnOnce(&[Pointer], &[Pointer]) -> crate::Result<Vec<Launch>>,
    ) -> Result<()> {
        let mut launches = Some(launches);
        self.with_inputs(inputs, &mut Vec::new(), &mut |inputs| {
            self.with_outputs(outputs, &mut Vec::new(), &mut |outputs| {
                let Some(launches) = launches.take() else { return Ok(()) };
                for launch in launches(inputs, outputs).map_err(candle_core::Error::wrap)? {
                    // SAFETY: as the caller assures.
                    unsafe { self.launch(&launch) }?;
                }
                Ok(())
            })
        })
    }

    /// Finds the addresses of all inputs. Each stays borrowed until the launches are queued, which other streams wait for.
    fn with_inputs(
        &self,
        inputs: &[&Tensor],
        found: &mut Vec<Pointer>,
        then: &mut dyn FnMut(&[Pointer]) -> Result<()>,
    ) -> Result<()> {
        let Some((first, rest)) = inputs.split_first() else { return then(found) };
        let (storage, layout) = first.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("expected a tensor on a CUDA device") };
        let start = first_element(layout)?;
        let stream = self.device.cuda_stream();
        macro_rules! with {
            ($type:ty) => {{
                let (pointer, _guard) = storage.as_cuda_slice::<$type>()?.device_ptr(&stream);
                found.push(Pointer(pointer + (start * size_of::<$type>()) as u64));
                self.with_inputs(rest, found, then)
            }};
        }
        match storage.dtype() {
            DType::F32 => with!(f32),
            DType::BF16 => with!(bf16),
            DType::U32 => with!(u32),
            DType::I64 => with!(i64),
            other => bail!("the kernels have no use for {other:?}"),
        }
    }

    /// Finds the addresses of all outputs.
    fn with_outputs(
        &self,
        outputs: &mut [&mut CudaStorage],
        found: &mut Vec<Pointer>,
        then: &mut dyn FnMut(&[Pointer]) -> Result<()>,
    ) -> Result<()> {
        let Some((first, rest)) = outputs.split_first_mut() else { return then(found) };
        let stream = self.device.cuda_stream();
        macro_rules! with {
            ($type:ty) => {{
                let (pointer, _guard) = first.as_cuda_slice_mut::<$type>()?.device_ptr_mut(&stream);
                found.push(Pointer(pointer));
                self.with_outputs(rest, found, then)
            }};
        }
        match first.dtype() {
            DType::F32 => with!(f32),
            DType::BF16 => with!(bf16),
            DType::F64 => with!(f64),
            other => bail!("the kernels do not write {other:?}"),
        }
    }

    pub(crate) fn device(&self) -> &CudaDevice {
        &self.device
    }

    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        let words = launch.arguments();
        if words.len() > WORDS {
            bail!("the argument of {} has {} words, more than {WORDS}", launch.function, words.len());
        }
        let mut argument = Argument([0; WORDS]);
        argument.0[..words.len()].copy_from_slice(words);
        let function = self.function(launch.module, launch.function)?;
        if launch.shared_bytes > SHARED_BYTES {
            let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, launch.shared_bytes.cast_signed()).w()?;
        }
        let [x, y, z] = launch.grid;
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: launch.shared_bytes,
        };
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        builder.arg(&argument);
        // SAFETY: as the caller assures.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

fn is_new(device: &CudaDevice) -> bool {
    let number = device.cuda_stream().context().cu_device();
    // The context's own method returns an error of an earlier call in place of the capability.
    // SAFETY: the device is the context's.
    #[allow(unsafe_code)]
    let major =
        unsafe { result::device::get_attribute(number, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) };
    major.is_ok_and(|major| major >= OLDEST)
}

fn first_element(layout: &Layout) -> Result<usize> {
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(start),
        None => bail!("expected a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

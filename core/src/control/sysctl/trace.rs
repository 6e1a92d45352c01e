//! Trace buffers.

use radon_abi::errno::Errno;
use radon_abi::sysctl as abi;
use radon_abi::sysctl::TbufOp;

use super::{read, write};
use crate::control::bitmap;
use crate::hypercall::{Args, Caller, OpResult};

/// `XEN_SYSCTL_tbuf_op`: makes trace buffers, once, says where they are and what is recorded, and starts and stops it.
///
/// Work: the pages of the buffers, once. Errors: `EINVAL`: no such command, no buffers to start with, no pages, or another
/// size than the buffers have. `ENOMEM`. `EFAULT`.
pub(super) fn tbuf_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: TbufOp = read(caller, args)?;
    let hv = caller.hv;
    let trace = &hv.trace;
    match r.cmd {
        abi::XEN_SYSCTL_TBUFOP_GET_INFO => {
            let state = trace.state();
            r.evt_mask = state.events;
            r.buffer_mfn = state.info.0;
            r.size = state.info_size;
        }
        abi::XEN_SYSCTL_TBUFOP_SET_CPU_MASK => trace.set_cpus(bitmap::read(caller, &r.cpu_mask)?),
        abi::XEN_SYSCTL_TBUFOP_SET_EVT_MASK => trace.set_events(r.evt_mask),
        abi::XEN_SYSCTL_TBUFOP_SET_SIZE => trace.make(hv, r.size)?,
        abi::XEN_SYSCTL_TBUFOP_ENABLE => trace.start()?,
        abi::XEN_SYSCTL_TBUFOP_DISABLE => trace.stop(),
        _ => return Err(Errno::EINVAL),
    }
    write(caller, args, &r)
}

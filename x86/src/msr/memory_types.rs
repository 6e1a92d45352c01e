//! Memory type range registers. Under nested paging the guest's memory types come from its page tables and the nested
//! ones, so these are storage with the checks of hardware (AMD64 manual volume 2, section 7.7).

use super::index as msr;

const VARIABLE: u8 = 8;
const FIXED: usize = 11;
/// Fixed ranges (bit 8) and the type write-combining (bit 10) exist.
const CAPABILITIES: u64 = 1 << 8 | 1 << 10 | VARIABLE as u64;
const WRITE_BACK: u64 = 6;
const ENABLE: u64 = 1 << 11;
/// AMD's SYSCFG: memory from 4 GiB to TOP_MEM2 is write-back, whatever the ranges say.
const ABOVE_4G_IS_MEMORY: u64 = 1 << 21 | 1 << 22;

/// The registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryTypes {
    default: u64,
    fixed: [u64; FIXED],
    /// Base and mask of each variable range.
    variable: [[u64; 2]; VARIABLE as usize],
    /// TOP_MEM2 if SYSCFG says that it counts, else 0. A kernel that does not see it gives up the memory above 4 GiB
    /// where firmware has set no range for it. Guests cannot change it.
    top_of_memory: u64,
}

impl MemoryTypes {
    /// As firmware leaves a machine whose memory is all write-back: what a kernel that is started directly expects.
    #[must_use]
    pub fn write_back() -> MemoryTypes {
        MemoryTypes { default: ENABLE | WRITE_BACK, ..MemoryTypes::default() }
    }

    /// What the machine's firmware has set up, as `read` says, so that dom0 maps devices as it would without a hypervisor;
    /// [`MemoryTypes::write_back`] if it has set up nothing. Variable ranges that have no place here are left out.
    #[must_use]
    pub fn of_machine(read: impl Fn(u32) -> Option<u64>) -> MemoryTypes {
        let Some(default) = read(msr::MTRR_DEF_TYPE).filter(|value| value & ENABLE != 0) else {
            return MemoryTypes::write_back();
        };
        let mut types = MemoryTypes { default: default & 0xcff, ..MemoryTypes::default() };
        if read(msr::SYSCFG).is_some_and(|value| value & ABOVE_4G_IS_MEMORY == ABOVE_4G_IS_MEMORY) {
            types.top_of_memory = read(msr::TOP_MEM2).unwrap_or(0);
        }
        let has_fixed = read(msr::MTRR_CAP).is_some_and(|value| value & 1 << 8 != 0);
        for number in fixed_numbers().filter(|_| has_fixed) {
            if let (Some(i), Some(value)) = (fixed_index(number), read(number))
                && let Some(slot) = types.fixed.get_mut(i)
            {
                *slot = value;
            }
        }
        let count = read(msr::MTRR_CAP).unwrap_or(0) & 0xff;
        for (pair, number) in types.variable.iter_mut().take(count as usize).zip((msr::MTRR_PHYS_BASE0..).step_by(2)) {
            *pair = [read(number).unwrap_or(0), read(number.saturating_add(1)).unwrap_or(0)];
        }
        types
    }

    /// The value of one of these registers, `None` if `number` is another MSR.
    #[must_use]
    pub fn read(&self, number: u32) -> Option<u64> {
        match number {
            msr::MTRR_CAP => Some(CAPABILITIES),
            msr::MTRR_DEF_TYPE => Some(self.default),
            msr::SYSCFG if self.top_of_memory != 0 => Some(ABOVE_4G_IS_MEMORY),
            msr::TOP_MEM2 if self.top_of_memory != 0 => Some(self.top_of_memory),
            _ => fixed_index(number)
                .and_then(|i| self.fixed.get(i))
                .or_else(|| variable_index(number).and_then(|(i, half)| self.variable.get(i)?.get(half)))
                .copied(),
        }
    }

    /// Writes one of these registers; false if hardware would refuse the value, or it is another MSR or read-only.
    #[must_use]
    pub fn write(&mut self, number: u32, value: u64, physical_bits: u8) -> bool {
        let beyond = u64::MAX.wrapping_shl(u32::from(physical_bits.clamp(32, 52)));
        if number == msr::MTRR_DEF_TYPE {
            if value & !0xcff != 0 || !is_type(value & 0xff) {
                return false;
            }
            self.default = value;
        } else if let Some(slot) = fixed_index(number).and_then(|i| self.fixed.get_mut(i)) {
            if !value.to_le_bytes().iter().all(|t| is_type(u64::from(*t))) {
                return false;
            }
            *slot = value;
        } else if let Some((i, half)) = variable_index(number)
            && let Some(slot) = self.variable.get_mut(i).and_then(|pair| pair.get_mut(half))
        {
            let (reserved, typed) = if half == 0 { (0xf00, is_type(value & 0xff)) } else { (0x7ff, true) };
            if value & (beyond | reserved) != 0 || !typed {
                return false;
            }
            *slot = value;
        } else {
            // What a guest writes to AMD's registers is dropped, as to others of that kind.
            return matches!(number, msr::SYSCFG | msr::TOP_MEM2);
        }
        true
    }
}

fn is_type(t: u64) -> bool {
    matches!(t, 0 | 1 | 4 | 5 | 6)
}

fn fixed_numbers() -> impl Iterator<Item = u32> {
    let singles = [msr::MTRR_FIX_64K, msr::MTRR_FIX_16K_80000, msr::MTRR_FIX_16K_A0000];
    singles.into_iter().chain(msr::MTRR_FIX_4K_C0000..=msr::MTRR_FIX_4K_F8000)
}

fn fixed_index(number: u32) -> Option<usize> {
    Some(match number {
        msr::MTRR_FIX_64K => 0,
        msr::MTRR_FIX_16K_80000 => 1,
        msr::MTRR_FIX_16K_A0000 => 2,
        msr::MTRR_FIX_4K_C0000..=msr::MTRR_FIX_4K_F8000 => {
            number.wrapping_sub(msr::MTRR_FIX_4K_C0000).saturating_add(3) as usize
        }
        _ => return None,
    })
}

/// Which variable range, and whether its base (0) or mask (1).
fn variable_index(number: u32) -> Option<(usize, usize)> {
    let offset = number.checked_sub(msr::MTRR_PHYS_BASE0)?;
    let index = (offset >> 1) as usize;
    (index < usize::from(VARIABLE)).then_some((index, (offset & 1) as usize))
}

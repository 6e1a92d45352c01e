//! Linux's order of operations on functions with BARs, MSI and MSI-X, and what hostile functions and guests do.

use super::mock::{Function, Machine};
use super::*;
use alloc::vec;
use proptest::prelude::*;

const AT: Sbdf = Sbdf::new(0, 0x0018);
const MSI: u16 = 0x50;
const MSIX: u16 = 0x70;
const BAR: u64 = 0xfe00_0000;
const WIDE_BAR: u64 = 0x40_0000_0000;
const TABLE: u64 = WIDE_BAR + 0x2000;

fn function() -> Function {
    Function::new()
        .with_bar(0, false, 0x1000, BAR)
        .with_bar(2, true, 0x8000, WIDE_BAR)
        .with_rom(0x2000, 0xfd00_0000)
        .with_msi(MSI.into(), 5)
        .with_msix(MSIX.into(), 4, 2, 0x2000)
}

/// A machine with one function, and shorthands for what dom0 does to it.
struct Guest {
    machine: Machine,
    vpci: VPci,
}

impl Guest {
    fn new(functions: impl IntoIterator<Item = (Sbdf, Function)>) -> Guest {
        let machine = Machine::with(functions);
        let mut vpci = VPci::new();
        vpci.scan(&machine.backends(), &[Ecam { base: 0xb000_0000, segment: 0, first_bus: 0, last_bus: 1 }]);
        Guest { machine, vpci }
    }
    fn one() -> Guest {
        Guest::new([(AT, function())])
    }
    fn read(&mut self, register: u16, width: Width) -> u32 {
        self.vpci.read(&self.machine.backends(), AT, register, width)
    }
    fn write(&mut self, register: u16, width: Width, value: u32) {
        self.vpci.write(&self.machine.backends(), AT, register, width, value);
    }
    fn command(&mut self, value: u32) {
        self.write(4, Width::Word, value);
    }
    fn table(&mut self, entry: u64, field: u64, value: u32) {
        let address = MachineAddr(TABLE + 16 * entry + 4 * field);
        assert!(self.vpci.mmio_write(&self.machine.backends(), address, 4, value.into()));
    }
    fn mapped(&self) -> Vec<Range<u64>> {
        self.machine.mapped.borrow().iter().collect()
    }
    fn bound(&self) -> Vec<(u16, u16, GuestMsi)> {
        self.machine.bound.borrow().iter().map(|((_, first), (count, m))| (*first, *count, *m)).collect()
    }
    /// The device's own table entry.
    fn host_entry(&self, entry: u64) -> [Option<u32>; 4] {
        [0, 4, 8, 12].map(|o| self.machine.dword(TABLE + 16 * entry + o))
    }
}

fn programmed(first: u16) -> [Option<u32>; 4] {
    let message = Machine::host_message(AT, first);
    [Some(message.address as u32), Some(0), Some(message.data), Some(0)]
}

#[test]
fn scan_finds_all_functions_and_leaves_them_as_they_were() {
    let many = Sbdf::from_parts(0, 1, 4, 0);
    let functions = [
        (AT, function()),
        (many, Function::new().with_multifunction()),
        (Sbdf::from_parts(0, 1, 4, 3), Function::new()),
    ];
    let hidden = (Sbdf::from_parts(0, 0, 3, 5), Function::new());
    let guest = Guest::new(functions.clone().into_iter().chain([hidden]));
    assert_eq!(
        guest.vpci.functions().collect::<Vec<_>>(),
        [AT, many, Sbdf::from_parts(0, 1, 4, 3)],
        "function 5 of a single-function device is not there"
    );
    for (at, before) in functions {
        assert!(guest.machine.functions.borrow()[&at].bytes[..] == before.bytes[..], "{at}");
    }
}

#[test]
fn bars_are_sized_and_moved_while_decoding_is_off() {
    let mut guest = Guest::one();
    guest.command(0);
    let sizes: Vec<u32> = [0x10, 0x18, 0x1c, 0x30]
        .into_iter()
        .map(|register| {
            let old = guest.read(register, Width::Dword);
            guest.write(register, Width::Dword, u32::MAX);
            let mask = guest.read(register, Width::Dword);
            guest.write(register, Width::Dword, old);
            mask
        })
        .collect();
    assert_eq!(sizes, [0xffff_f000, 0xffff_8004, 0xffff_ffff, 0xffff_e001]);
    guest.write(0x10, Width::Dword, 0xfc12_3000);
    guest.command(6);
    assert_eq!(guest.mapped(), [0xfc12_3000..0xfc12_4000, WIDE_BAR..TABLE, TABLE + 0x1000..WIDE_BAR + 0x8000]);
    guest.command(4);
    assert_eq!(guest.mapped(), []);
    assert_eq!(guest.machine.config(AT, 4, 2), 4);
}

#[test]
fn a_bar_that_is_decoded_is_sized_without_moving_it() {
    let mut guest = Guest::one();
    guest.command(2);
    let mapped = guest.mapped();
    guest.write(0x18, Width::Dword, u32::MAX);
    guest.write(0x1c, Width::Dword, u32::MAX);
    assert_eq!((guest.read(0x18, Width::Dword), guest.read(0x1c, Width::Dword)), (0xffff_8004, 0xffff_ffff));
    assert_eq!(guest.read(0x10, Width::Dword), BAR as u32);
    guest.write(0x18, Width::Dword, WIDE_BAR as u32 | 4);
    assert_eq!(guest.read(0x18, Width::Dword), WIDE_BAR as u32 | 4);
    guest.write(0x1c, Width::Dword, 0x99);
    assert_eq!(guest.read(0x1c, Width::Dword), 0x40, "it does not move");
    assert_eq!(guest.machine.config(AT, 0x18, 8), WIDE_BAR | 4);
    assert_eq!(guest.mapped(), mapped);
}

#[test]
fn the_rom_comes_and_goes_with_its_own_bit() {
    let mut guest = Guest::one();
    guest.command(2);
    let rom = 0xfd00_0000..0xfd00_2000;
    assert!(!guest.mapped().contains(&rom));
    guest.write(0x30, Width::Dword, 0xfd00_0001);
    assert!(guest.mapped().contains(&rom));
    guest.write(0x30, Width::Dword, 0xfc00_0001);
    assert!(guest.mapped().contains(&rom), "it does not move while it is on");
    guest.write(0x30, Width::Dword, 0xfd00_0000);
    assert!(!guest.mapped().contains(&rom));
}

#[test]
fn small_bars_that_share_a_page_keep_it_mapped() {
    let other = Sbdf::new(0, 0x20);
    let bar = |start| Function::new().with_bar(0, false, 0x100, start);
    let mut guest = Guest::new([(AT, bar(BAR)), (other, bar(BAR + 0x100))]);
    let backends = guest.machine.backends();
    let page = BAR..BAR + 0x1000;
    for at in [AT, other] {
        guest.vpci.write(&backends, at, 4, Width::Word, 2);
    }
    guest.vpci.write(&backends, AT, 4, Width::Word, 0);
    assert_eq!(guest.machine.mapped.borrow().iter().collect::<Vec<_>>(), [page]);
    guest.vpci.write(&backends, other, 4, Width::Word, 0);
    assert_eq!(guest.mapped(), []);
}

#[test]
fn a_table_page_that_holds_anothers_bar_is_trapped_while_the_table_is_there() {
    let other = Sbdf::new(0, 0x20);
    let table = Function::new().with_bar(0, false, 0x100, BAR).with_msix(0x70, 2, 0, 0);
    let mut guest = Guest::new([(AT, table), (other, Function::new().with_bar(0, false, 0x100, BAR + 0x100))]);
    let backends = guest.machine.backends();
    guest.vpci.write(&backends, other, 4, Width::Word, 2);
    assert_eq!(guest.machine.mapped.borrow().total(), 0x1000);
    guest.vpci.write(&backends, AT, 4, Width::Word, 2);
    assert_eq!(guest.machine.mapped.borrow().total(), 0);
    assert!(guest.vpci.mmio_write(&backends, MachineAddr(BAR + 0x100), 4, 77));
    assert_eq!(guest.machine.dword(BAR + 0x100), Some(77), "the other's registers are reached through the trap");
    guest.vpci.write(&backends, AT, 4, Width::Word, 0);
    assert_eq!(guest.machine.mapped.borrow().total(), 0x1000);
    assert!(!guest.vpci.traps(MachineAddr(BAR)));
}

#[test]
fn status_bits_survive_writes_to_command() {
    let mut guest = Guest::one();
    guest.machine.functions.borrow_mut().get_mut(&AT).unwrap().bytes[7] = 0xf8;
    guest.write(4, Width::Byte, 6);
    guest.write(5, Width::Byte, 4);
    guest.write(4, Width::Word, 0x406);
    assert_eq!(guest.machine.config(AT, 4, 4), 0xf810_0406);
    guest.write(4, Width::Dword, 0x8000_0006);
    assert_eq!(guest.machine.config(AT, 4, 4), 0x7810_0006, "a one clears just its bit");
}

#[test]
fn accesses_of_every_width_and_alignment_give_the_same_bytes() {
    let mut guest = Guest::one();
    guest.write(MSI + 4, Width::Dword, 0xfee0_1234);
    guest.write(MSI + 12, Width::Word, 0x4041);
    let bytes: Vec<u8> = (0..256).map(|r| guest.read(r, Width::Byte) as u8).collect();
    for register in 0..252usize {
        let word = u16::from_le_bytes(bytes[register..register + 2].try_into().unwrap());
        let dword = u32::from_le_bytes(bytes[register..register + 4].try_into().unwrap());
        assert_eq!(guest.read(register as u16, Width::Word), word.into(), "{register:#x}");
        assert_eq!(guest.read(register as u16, Width::Dword), dword, "{register:#x}");
    }
    assert_eq!(guest.read(4094, Width::Dword), 0xffff_0000, "there is nothing behind the end");
    let absent = Sbdf::new(0, 0x100);
    assert_eq!(guest.vpci.read(&guest.machine.backends(), absent, 0, Width::Dword), u32::MAX);
}

#[test]
fn msi_as_linux_sets_it_up() {
    let mut guest = Guest::one();
    let control = guest.read(MSI + 2, Width::Word);
    assert_eq!(control, 0x188, "64 bits, mask bits, and as many messages as the backend can have");
    guest.write(MSI + 2, Width::Word, control & !1);
    guest.write(MSI + 16, Width::Dword, 1);
    guest.write(MSI + 2, Width::Word, control & !0x70);
    guest.write(MSI + 4, Width::Dword, 0xfee0_2000);
    guest.write(MSI + 8, Width::Dword, 0);
    guest.write(MSI + 12, Width::Word, 0x41);
    assert_eq!(guest.bound(), []);
    guest.write(MSI + 2, Width::Word, control | 1);
    let message = GuestMsi { address: 0xfee0_2000, data: 0x41 };
    assert_eq!(guest.bound(), [(0, 1, message)]);
    let host = Machine::host_message(AT, 0);
    let hardware = |guest: &Guest| {
        (guest.machine.config(AT, 0x54, 8), guest.machine.config(AT, 0x5c, 2), guest.machine.config(AT, 0x52, 2) & 0x71)
    };
    assert_eq!(hardware(&guest), (host.address, host.data.into(), 1));
    assert_eq!(guest.machine.config(AT, 0x60, 4), 1, "mask bits are the device's");
    assert_eq!(
        (guest.read(MSI + 4, Width::Dword), guest.read(MSI + 12, Width::Dword)),
        (0xfee0_2000, 0x41),
        "the guest sees its own"
    );
    // It moves to another CPU, in two steps, while the device may send.
    assert_eq!(*guest.machine.loud_binds.borrow(), 0);
    guest.write(MSI + 4, Width::Dword, 0xfee0_4000);
    guest.write(MSI + 12, Width::Word, 0x52);
    assert_eq!(*guest.machine.loud_binds.borrow(), 2);
    assert_eq!(guest.bound(), [(0, 1, GuestMsi { address: 0xfee0_4000, data: 0x52 })]);
    assert_eq!(hardware(&guest), (host.address, host.data.into(), 1));
    guest.write(MSI + 2, Width::Word, control & !1);
    assert_eq!(guest.bound(), []);
    assert_eq!(hardware(&guest).2, 0);
}

#[test]
fn several_msi_messages_are_one_block() {
    let mut guest = Guest::one();
    guest.write(MSI + 12, Width::Word, 0x60);
    guest.write(MSI + 2, Width::Word, 0x181 | 3 << 4);
    assert_eq!(guest.bound(), [(0, 8, GuestMsi { address: 0, data: 0x60 })]);
    assert_eq!(guest.machine.config(AT, 0x52, 2) & 0x71, 0x31);
    // More than there are, and another number of messages while it is on.
    guest.write(MSI + 2, Width::Word, 0x181 | 7 << 4);
    assert_eq!(guest.bound(), [(0, 16, GuestMsi { address: 0, data: 0x60 })]);
    assert_eq!(guest.read(MSI + 2, Width::Word), 0x188 | 4 << 4 | 1);
}

#[test]
fn msi_that_cannot_be_bound_stays_off() {
    let mut guest = Guest::new([(AT, Function::new().with_small_msi(MSI.into()))]);
    *guest.machine.refuse_msi.borrow_mut() = true;
    guest.write(MSI + 4, Width::Dword, 0xfee0_2000);
    guest.write(MSI + 2, Width::Word, 1);
    assert_eq!(guest.machine.config(AT, 0x52, 2), 0);
    assert_eq!(guest.read(MSI + 2, Width::Word), 1, "the guest sees what it wrote");
    *guest.machine.refuse_msi.borrow_mut() = false;
    guest.write(MSI + 8, Width::Word, 0x41);
    assert_eq!(guest.bound(), [(0, 1, GuestMsi { address: 0xfee0_2000, data: 0x41 })]);
    assert_eq!(guest.machine.config(AT, 0x52, 2), 1);
    assert_eq!(guest.machine.config(AT, 0x58, 2), u64::from(Machine::host_message(AT, 0).data));
}

/// Decoding on, enabled with all masked, entries masked, messages written, unmasked.
fn linux_msix(guest: &mut Guest) {
    guest.command(6);
    let control = guest.read(MSIX + 2, Width::Word);
    assert_eq!(control, 3);
    guest.write(MSIX + 2, Width::Word, control | 0xc000);
    for entry in 0..4 {
        guest.table(entry, 3, 1);
    }
    for entry in 0..3 {
        guest.table(entry, 0, 0xfee0_1000 + 0x1000 * entry as u32);
        guest.table(entry, 1, 0);
        guest.table(entry, 2, 0x30 + entry as u32);
    }
    assert_eq!(guest.bound(), []);
    guest.write(MSIX + 2, Width::Word, control | 0x8000);
    for entry in 0..3 {
        guest.table(entry, 3, 0);
    }
}

#[test]
fn msix_as_linux_sets_it_up() {
    let mut guest = Guest::one();
    linux_msix(&mut guest);
    let message = |n: u32| GuestMsi { address: 0xfee0_1000 + 0x1000 * u64::from(n), data: 0x30 + n };
    assert_eq!(guest.bound(), [(0, 1, message(0)), (1, 1, message(1)), (2, 1, message(2))]);
    for entry in 0..3 {
        assert_eq!(guest.host_entry(entry), programmed(entry as u16));
    }
    assert_eq!(guest.host_entry(3)[3], Some(1), "an entry that is not used is masked");
    assert_eq!(guest.machine.config(AT, 0x72, 2), 0x8003);
    assert_eq!(guest.read(MSIX + 2, Width::Word), 0x8003);
    let read = |guest: &mut Guest, address, bytes| {
        guest.vpci.mmio_read(&guest.machine.backends(), MachineAddr(address), bytes)
    };
    assert_eq!(read(&mut guest, TABLE + 16, 8), Some(0xfee0_2000));
    assert_eq!(read(&mut guest, TABLE + 24, 8), Some(0x31));
    assert_eq!(read(&mut guest, TABLE + 56, 8), Some(1 << 32));
    assert_eq!(read(&mut guest, TABLE + 2, 2), Some(u64::MAX), "undefined widths give ones");
    assert_eq!(read(&mut guest, WIDE_BAR, 4), None, "only the table's page is trapped");

    // Masking and unmasking touches the device alone.
    let binds = *guest.machine.binds.borrow();
    guest.table(1, 3, 1);
    assert_eq!(guest.host_entry(1)[3], Some(1));
    guest.table(1, 3, 0);
    assert_eq!(guest.host_entry(1), programmed(1));
    assert_eq!(*guest.machine.binds.borrow(), binds);

    // An interrupt moves to another CPU.
    for masked in [true, false] {
        guest.table(2, 3, masked.into());
        guest.table(2, 0, 0xfee0_9000);
        guest.table(2, 2, 0x99 + u32::from(masked));
        guest.table(2, 3, 0);
        let moved = GuestMsi { address: 0xfee0_9000, data: 0x99 + u32::from(masked) };
        assert_eq!(guest.bound()[2], (2, 1, moved));
        assert_eq!(guest.host_entry(2), programmed(2));
    }
    assert_eq!(*guest.machine.loud_binds.borrow(), 0, "an entry is masked while it changes");

    guest.write(MSIX + 2, Width::Word, 0);
    assert_eq!(guest.bound(), []);
    assert_eq!(guest.machine.config(AT, 0x72, 2), 3);
}

#[test]
fn nothing_fires_while_the_table_is_filled() {
    let mut guest = Guest::one();
    linux_msix(&mut guest);
    guest.write(MSIX + 2, Width::Word, 0);
    guest.machine.log.borrow_mut().clear();
    guest.write(MSIX + 2, Width::Word, 0x8000);
    let log = guest.machine.log.borrow();
    assert_eq!((log[0], *log.last().unwrap()), (Some((MSIX + 2, 0xc000)), Some((MSIX + 2, 0x8000))));
    assert!(log.len() > 2 && log[1..log.len() - 1].iter().all(Option::is_none));
}

#[test]
fn what_shares_the_tables_page_is_the_devices() {
    let mut guest = Guest::one();
    guest.command(2);
    let backends = guest.machine.backends();
    guest.machine.memory.borrow_mut().insert(TABLE + 0x800, 0b101);
    assert_eq!(guest.vpci.mmio_read(&backends, MachineAddr(TABLE + 0x800), 4), Some(0b101), "pending bits");
    assert!(guest.vpci.mmio_write(&backends, MachineAddr(TABLE + 0x40), 8, 0x1_0000_0002));
    assert_eq!((guest.machine.dword(TABLE + 0x40), guest.machine.dword(TABLE + 0x44)), (Some(2), Some(1)));
    assert!(!guest.vpci.mmio_write(&backends, MachineAddr(TABLE + 0x1000), 4, 0));
}

#[test]
fn a_reset_is_healed_by_the_guests_restoring() {
    let mut guest = Guest::one();
    linux_msix(&mut guest);
    // The function forgets everything.
    guest.machine.functions.borrow_mut().insert(AT, function());
    {
        let mut functions = guest.machine.functions.borrow_mut();
        let f = functions.get_mut(&AT).unwrap();
        f.set(0x10, 4, 0);
        f.set(0x18, 8, 4);
    }
    guest.machine.memory.borrow_mut().clear();
    // What Linux saved is written back: BARs from the last to the first, COMMAND, then MSI-X.
    for (register, value) in [(0x1c, (WIDE_BAR >> 32) as u32), (0x18, WIDE_BAR as u32 | 4), (0x10, BAR as u32), (4, 6)]
    {
        guest.write(register, Width::Dword, value);
    }
    assert_eq!(guest.machine.config(AT, 0x18, 8), WIDE_BAR | 4);
    guest.write(MSIX + 2, Width::Word, 0xc003);
    for entry in 0..3 {
        for field in 0..3 {
            let value = guest.vpci.mmio_read(&guest.machine.backends(), MachineAddr(TABLE + 16 * entry + 4 * field), 4);
            guest.table(entry, field, value.unwrap() as u32);
        }
        guest.table(entry, 3, 0);
    }
    guest.write(MSIX + 2, Width::Word, 0x8003);
    for entry in 0..3 {
        assert_eq!(guest.host_entry(entry), programmed(entry as u16));
    }
    assert_eq!(guest.machine.config(AT, 0x72, 2), 0x8003);
    assert_eq!(guest.mapped(), [BAR..BAR + 0x1000, WIDE_BAR..TABLE, TABLE + 0x1000..WIDE_BAR + 0x8000]);
}

#[test]
fn msix_that_is_enabled_before_decoding_starts_with_it() {
    let mut guest = Guest::one();
    guest.write(MSIX + 2, Width::Word, 0x8003);
    assert!(guest.machine.memory.borrow().is_empty());
    guest.command(2);
    guest.table(0, 3, 0);
    assert_eq!(guest.host_entry(0), programmed(0));
    guest.command(0);
    guest.machine.memory.borrow_mut().clear();
    guest.command(2);
    assert_eq!(guest.host_entry(0), programmed(0));
}

#[test]
fn msi_and_msix_exclude_each_other() {
    let mut guest = Guest::one();
    guest.command(2);
    guest.write(MSI + 2, Width::Word, 1);
    guest.write(MSIX + 2, Width::Word, 0x8000);
    assert_eq!((guest.machine.config(AT, 0x72, 2), guest.read(MSIX + 2, Width::Word)), (3, 3));
    guest.write(MSI + 2, Width::Word, 0);
    guest.write(MSIX + 2, Width::Word, 0x8000);
    guest.write(MSI + 2, Width::Word, 1);
    assert_eq!((guest.machine.config(AT, 0x72, 2), guest.machine.config(AT, 0x52, 2) & 1), (0x8003, 0));
    assert_eq!(guest.bound(), []);
}

#[test]
fn a_table_outside_of_its_bar_keeps_msix_off() {
    for (bar, offset) in [(0, 0xfd0), (2, 0x8000), (1, 0), (6, 0), (3, 0)] {
        let f = function().with_msix(0x90, 4, bar, offset);
        let mut guest = Guest::new([(AT, f)]);
        guest.command(6);
        guest.write(0x92, Width::Word, 0xc003);
        assert_eq!(guest.machine.config(AT, 0x92, 2), 3, "BAR {bar} offset {offset:#x}");
        assert_eq!(guest.read(0x92, Width::Word) & 0x8000, 0);
    }
}

#[test]
fn capability_lists_with_loops_end() {
    for (pointer, bytes) in [(0x40, [9, 0x40]), (0x40, [9, 0x44]), (0xfc, [9, 0xfc]), (0x10, [5, 0]), (0xff, [5, 0])] {
        let mut f = Function::new();
        f.set(6, 2, 0x10);
        f.bytes[0x34] = pointer;
        f.bytes[usize::from(pointer & 0xfc)..][..2].copy_from_slice(&bytes);
        f.bytes[0x44..0x46].copy_from_slice(&[9, 0x40]);
        // An extended list that never ends as well.
        f.set(0x100, 4, 0x1001_0001);
        let mut guest = Guest::new([(AT, f)]);
        for register in (0x40..0x100).step_by(2).chain([0x12]) {
            guest.write(register, Width::Word, 1);
        }
        assert_eq!(guest.bound(), []);
    }
}

#[test]
fn functions_of_the_hypervisor_can_be_looked_at_only() {
    let machine = Machine::with([(AT, function())]);
    let mut vpci = VPci::new();
    vpci.protect(AT);
    vpci.scan(&machine.backends(), &[Ecam { base: 0, segment: 0, first_bus: 0, last_bus: 0 }]);
    let mut guest = Guest { machine, vpci };
    guest.command(6);
    guest.write(MSI + 2, Width::Word, 1);
    assert_eq!((guest.machine.config(AT, 4, 2), guest.bound()), (0, vec![]));
    assert_eq!(guest.read(0, Width::Dword), 0x1042_1af4);
    assert_eq!(guest.vpci.remove(&guest.machine.backends(), AT), Err(Errno::EPERM));
}

#[test]
fn functions_come_and_go() {
    let mut guest = Guest::new([]);
    assert_eq!(guest.read(0, Width::Dword), u32::MAX);
    guest.machine.functions.borrow_mut().insert(AT, function());
    assert_eq!(guest.read(0, Width::Dword), 0x1042_1af4);
    linux_msix(&mut guest);
    assert_eq!(guest.bound().len(), 3);
    assert_eq!(guest.vpci.remove(&guest.machine.backends(), AT), Ok(()));
    assert_eq!((guest.bound(), guest.mapped()), (vec![], vec![]));
    assert_eq!(guest.vpci.remove(&guest.machine.backends(), AT), Err(Errno::ENODEV));
    assert!(!guest.vpci.traps(MachineAddr(TABLE)));
}

#[derive(Clone, Debug)]
enum Step {
    Write(u16, Width, u32),
    Table(u64, u8, u64),
    Refuse(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let width = prop_oneof![Just(Width::Byte), Just(Width::Word), Just(Width::Dword)];
    let register = prop_oneof![0u16..0x40, Just(4), MSI..MSI + 24, MSIX..MSIX + 12, 0u16..5000];
    let value =
        prop_oneof![any::<u32>(), Just(u32::MAX), Just(0), Just(0xfee0_1000), Just(2), Just(0x8000), Just(0x8000_0000)];
    prop_oneof![
        6 => (register, width, value).prop_map(|(r, w, v)| Step::Write(r, w, v)),
        3 => (0u64..0x90, 0usize..4, any::<u64>()).prop_map(|(o, w, v)| Step::Table(o & !7, [1, 2, 4, 8][w], v & 0x1_fee0_10ff)),
        1 => any::<bool>().prop_map(Step::Refuse),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the guest does: an enabled device holds only messages of the host, and what is mapped is what is
    /// decoded, less the table's page.
    #[test]
    fn devices_hold_only_the_hosts_messages(steps in prop::collection::vec(step(), 1..60)) {
        let mut guest = Guest::one();
        for step in steps {
            match step {
                Step::Write(register, width, value) => {
                    guest.write(register, width, value);
                    guest.read(register, width);
                }
                Step::Table(offset, bytes, value) => {
                    let table = guest.vpci.devices[&AT].msix.as_ref().unwrap().table();
                    let address = MachineAddr(table.map_or(TABLE, |t| t.start) + offset);
                    guest.vpci.mmio_write(&guest.machine.backends(), address, bytes, value);
                    guest.vpci.mmio_read(&guest.machine.backends(), address, bytes);
                }
                Step::Refuse(refuse) => {
                    if *guest.machine.refuse_msi.borrow() == refuse {
                        continue;
                    }
                    // Start afresh, so that the mock's bookkeeping holds.
                    guest.write(MSI + 2, Width::Word, 0);
                    guest.write(MSIX + 2, Width::Word, 0);
                    guest.machine.bound.borrow_mut().clear();
                    *guest.machine.refuse_msi.borrow_mut() = refuse;
                }
            }
            if guest.machine.config(AT, 0x52, 2) & 1 != 0 {
                let host = Machine::host_message(AT, 0);
                prop_assert_eq!(guest.machine.config(AT, 0x54, 8), host.address);
                prop_assert_eq!(guest.machine.config(AT, 0x5c, 2), u64::from(host.data));
                prop_assert!(guest.machine.bound.borrow().contains_key(&(AT, 0)));
            }
            let table = guest.vpci.devices[&AT].msix.as_ref().unwrap().table();
            if let (Some(table), true) = (table, guest.machine.config(AT, 0x72, 2) & 0x8000 != 0) {
                for (n, entry) in (0u16..).zip(table.step_by(16)) {
                    if guest.machine.dword(entry + 12).unwrap() & 1 == 0 {
                        let host = Machine::host_message(AT, n);
                        prop_assert_eq!(guest.machine.dword(entry), Some(host.address as u32));
                        prop_assert_eq!(guest.machine.dword(entry + 4), Some(0));
                        prop_assert_eq!(guest.machine.dword(entry + 8), Some(host.data));
                    }
                }
            }
            let device = &guest.vpci.devices[&AT];
            let places = device.places(&guest.machine.backends());
            let mut expected: RangeSet = places.iter().map(|(_, r)| pages(r)).filter(|r| r.start >= 0x10_0000).collect();
            guest.vpci.traps.iter().for_each(|(r, _)| expected.remove(r));
            prop_assert_eq!(&*guest.machine.mapped.borrow(), &expected);
        }
    }
}

// The entries of interrupts, and stacks. AT&T syntax.

    .section .text.entries, "ax"
// Each counts itself; what comes by way of the local APIC (x2APIC mode) also ends the interrupt there.
    .macro interrupt name, counter, upcall, apic
    .globl \name
\name:
    lock incq \counter
    .if \upcall
    movb $0, SHARED_INFO                    // while that is set, the hypervisor interrupts again
    .endif
    .if \apic
    pushq %rax
    pushq %rcx
    pushq %rdx
    movl $0x80b, %ecx                       // end of interrupt
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    popq %rdx
    popq %rcx
    popq %rax
    .endif
    iretq
    .endm
    interrupt nmi_entry, NMIS, 0, 0
    interrupt upcall_entry, UPCALLS, 1, 0
    interrupt apic_upcall_entry, APIC_UPCALLS, 1, 1

// An exception: its number is not known, the stack says the rest.
    .globl exception_entry
exception_entry:
    movq %rsp, %rdi
    call guest_exception

    .section .bss.entry, "aw", @nobits
    .balign 4096
    .skip 65536
    .globl boot_stack_top
boot_stack_top:
    .skip 16384
    .globl second_stack_top
second_stack_top:

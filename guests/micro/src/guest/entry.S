// The entries of interrupts, and stacks. AT&T syntax.

    .section .text.entries, "ax"
// Each leaves the counter in LAST_INTERRUPT and says so in INTERRUPTS; those of the second CPU only say so in
// SECOND_INTERRUPTS.
    .macro interrupt name, upcall, second=0
    .globl \name
\name:
    pushq %rax
    pushq %rcx
    pushq %rdx
    .if !\second
    rdtsc
    movl %eax, LAST_INTERRUPT
    movl %edx, LAST_INTERRUPT + 4
    .endif
    .if \upcall
    movb $0, SHARED_INFO + 64 * \second
    .else
    movl $0x80b, %ecx                       // x2APIC: end of interrupt
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    .endif
    .if \second
    incq SECOND_INTERRUPTS
    .else
    incq INTERRUPTS
    .endif
    popq %rdx
    popq %rcx
    popq %rax
    iretq
    .endm
    interrupt upcall_entry, 1
    interrupt apic_entry, 0
    interrupt second_upcall_entry, 1, 1
    interrupt second_apic_entry, 0, 1

// An exception: its number is not known, the stack says the rest.
    .globl exception_entry
exception_entry:
    movq %rsp, %rdi
    call guest_exception

    .section .bss.entry, "aw", @nobits
    .balign 4096
stack_bottom:   .skip 32768
    .globl boot_stack_top
boot_stack_top:
second_bottom:  .skip 16384
    .globl second_stack
second_stack:   .skip 2 * 16384         // and below, of the third and fourth CPU

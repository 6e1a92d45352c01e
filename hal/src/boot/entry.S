// Boot loader headers and the way from 32-bit protected mode without paging to Rust at high addresses.
// AT&T syntax. Everything in .boot.* is linked at its physical address.

    .set MB1_FLAGS, 0x3                     // modules on page boundaries, memory information
    .set MB2_LENGTH, mb2_end - mb2_start

    .section .boot.header, "a"
    .balign 8
mb2_start:
    .long 0xe85250d6                        // Multiboot2 magic
    .long 0                                 // i386 protected mode
    .long MB2_LENGTH
    .long -(0xe85250d6 + MB2_LENGTH)
    // Information request (optional, so an old loader does not refuse): cmdline, loader name, module, mmap,
    // framebuffer, EFI64 system table, EFI mmap, ACPI old, ACPI new.
    .balign 8
1:  .short 1, 1
    .long 2f - 1b
    .long 1, 2, 3, 6, 8, 12, 17, 14, 15
2:  .balign 8
    .short 6, 1                             // modules on page boundaries
    .long 8
    .balign 8
    .short 0, 0                             // end
    .long 8
mb2_end:

    .balign 4
    .long 0x1badb002                        // Multiboot1 magic
    .long MB1_FLAGS
    .long -(0x1badb002 + MB1_FLAGS)

    .section .boot.text, "ax"
    .code32
    .globl radon_start32
radon_start32:
    cli
    cld
    movl %eax, %edi                         // loader's magic: first argument of the Rust entry
    movl %ebx, %esi                         // its information: second argument
    movl $__boot_stack_top_phys, %esp

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    movl %edx, %ebp                         // bit 20: NX

    // CPUID changed ebx only; edi and esi are intact. Four page directories map the first 4 GiB with 2 MiB pages.
    movl $boot_pd, %ebx
    movl $0x83, %eax                        // present, writable, 2 MiB
    movl $2048, %ecx
1:  movl %eax, (%ebx)
    movl $0, 4(%ebx)
    addl $8, %ebx
    addl $0x200000, %eax
    decl %ecx
    jnz 1b

    movl $boot_pd + 0x0003, boot_pdpt_low
    movl $boot_pd + 0x1003, boot_pdpt_low + 8
    movl $boot_pd + 0x2003, boot_pdpt_low + 16
    movl $boot_pd + 0x3003, boot_pdpt_low + 24
    movl $boot_pd + 0x0003, boot_pdpt_high + 510 * 8
    movl $boot_pdpt_low + 3, boot_pml4              // identity
    movl $boot_pdpt_low + 3, boot_pml4 + 256 * 8    // direct map
    movl $boot_pdpt_high + 3, boot_pml4 + 511 * 8   // image

    movl %cr4, %eax
    orl $0xa0, %eax                         // PAE, PGE
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx                  // EFER
    rdmsr
    orl $0x100, %eax                        // LME
    btl $20, %ebp
    jnc 2f
    orl $0x800, %eax                        // NXE
2:  wrmsr
    movl $0x80010031, %eax                  // PG, WP, NE, ET, PE; caches on
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmpl $0x08, $boot_long_mode

no_long_mode:                               // say so on COM1 and stop
    movl $no_long_mode_text, %esi
1:  movw $0x3fd, %dx
2:  inb %dx, %al
    testb $0x20, %al
    jz 2b
    lodsb
    testb %al, %al
    jz 3f
    movw $0x3f8, %dx
    outb %al, %dx
    jmp 1b
3:  hlt
    jmp 3b

    .code64
boot_long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $radon_start64, %rax
    jmpq *%rax

    .section .boot.data, "aw"
no_long_mode_text:
    .asciz "Radon needs a 64-bit processor (CPUID 0x80000001 EDX bit 29 is clear).\r\n"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                // 0x08: 64-bit code
    .quad 0x00cf93000000ffff                // 0x10: data
boot_gdt_pointer:
    .short 23
    .long boot_gdt
    .long 0                                 // upper half, for lgdt in long mode

    .section .boot.bss, "aw", @nobits
    .balign 4096
    .globl boot_pml4
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4 * 4096

    .section .text.start, "ax"
    .code64
    .type radon_start64, @function
radon_start64:
    movabsq $__boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %edi, %edi                         // zero-extend the arguments
    movl %esi, %esi
    pushq $0                                // ends the frame chain, keeps the stack aligned at the call
    pushq $0
    call radon_boot_entry
1:  cli
    hlt
    jmp 1b

    .section .symbols, "a"
    .long 0x4d595352, 0                     // "RSYM", no names yet

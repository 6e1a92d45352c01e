// Boot loader headers and the way from 32-bit protected mode without paging to Rust at high addresses; before it, with
// EFI, the end of boot services.
// AT&T syntax. Everything in .boot.* is linked at the physical address where it is loaded if that is free. If it is not,
// all symbols are off by a multiple of 2 MiB, which is in ebp: hence symbol(%ebp).

    .set MB1_FLAGS, 0x3                     // modules on page boundaries, memory information
    .set MB2_LENGTH, mb2_end - mb2_start
    .set MB2_MAGIC, 0x36d76289
    .set EFI_MAP_ROOM, 0x10000

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
    .short 7, 1                             // may be started with EFI boot services running
    .long 8
    .balign 8
    .short 9, 1                             // then at this entry, in 64-bit mode
    .long 12
    .long radon_start_efi
    .balign 8
    .short 10, 1                            // may be loaded elsewhere: from, below, alignment, lowest preferred
    .long 24
    .long 0x200000, 0xffffffff, 0x200000, 1
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
    xorl %ebp, %ebp
    cmpl $MB2_MAGIC, %eax                   // only Multiboot2 loads images elsewhere
    jne 1f
    movl 4(%ebx), %ecx                      // where are we? No stack is given: a reserved word of the information serves
    leal 8(%ebx), %esp
    call .Lhere
.Lhere:
    popl %ebp
    movl %ecx, 4(%ebx)
    subl $.Lhere, %ebp
1:  leal __boot_stack_top_phys(%ebp), %esp

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    pushl %edx                              // bit 20: NX

    // CPUID changed ebx only; edi and esi are intact. Four page directories map the first 4 GiB with 2 MiB pages, one
    // more the image.
    leal boot_pd(%ebp), %ebx
    movl $0x83, %eax                        // present, writable, 2 MiB
    movl $2048, %ecx
    call fill_directory
    leal boot_pd_image(%ebp), %ebx
    leal 0x83(%ebp), %eax
    movl $64, %ecx                          // 128 MiB are more than enough
    call fill_directory

    leal boot_pd + 0x0003(%ebp), %eax
    movl %eax, boot_pdpt_low(%ebp)
    addl $0x1000, %eax
    movl %eax, boot_pdpt_low + 8(%ebp)
    addl $0x1000, %eax
    movl %eax, boot_pdpt_low + 16(%ebp)
    addl $0x1000, %eax
    movl %eax, boot_pdpt_low + 24(%ebp)
    leal boot_pd_image + 0x0003(%ebp), %eax
    movl %eax, boot_pdpt_high + 510 * 8(%ebp)
    leal boot_pdpt_low + 3(%ebp), %eax
    movl %eax, boot_pml4(%ebp)              // identity
    movl %eax, boot_pml4 + 256 * 8(%ebp)    // direct map
    leal boot_pdpt_high + 3(%ebp), %eax
    movl %eax, boot_pml4 + 511 * 8(%ebp)    // image

    movl %cr4, %eax
    orl $0xa0, %eax                         // PAE, PGE
    movl %eax, %cr4
    leal boot_pml4(%ebp), %eax
    movl %eax, %cr3
    popl %ebx
    movl $0xc0000080, %ecx                  // EFER
    rdmsr
    orl $0x100, %eax                        // LME
    btl $20, %ebx
    jnc 2f
    orl $0x800, %eax                        // NXE
2:  wrmsr
    movl $0x80010031, %eax                  // PG, WP, NE, ET, PE; caches on
    movl %eax, %cr0
    leal boot_gdt(%ebp), %eax
    movl %eax, boot_gdt_pointer + 2(%ebp)
    lgdt boot_gdt_pointer(%ebp)
    leal boot_long_mode(%ebp), %eax
    pushl $0x08
    pushl %eax
    lretl

fill_directory:                             // ecx entries at ebx, the first one is eax
1:  movl %eax, (%ebx)
    movl $0, 4(%ebx)
    addl $8, %ebx
    addl $0x200000, %eax
    decl %ecx
    jnz 1b
    ret

no_long_mode:
    leal no_long_mode_text(%ebp), %esi
say:                                        // the text at esi on COM1, and stop; in 32-bit and 64-bit mode
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
    movl %ebp, %edx                         // how far from its place the image is: third argument
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $radon_start64, %rax
    jmpq *%rax

    // With EFI boot services running: eax is Multiboot2's magic, ebx its information, paging and interrupts are the
    // firmware's, memory is mapped one to one. Ends boot services and goes on as if there had been none.
    .globl radon_start_efi
radon_start_efi:
    cld
    movl %ebx, %ebp
    leaq radon_start_efi(%rip), %rbx
    subq $radon_start_efi, %rbx             // how far from its place the image is
    leaq __boot_stack_top_phys(%rbx), %rsp
    subq $0x40, %rsp                        // the callees' home space, a fifth argument, two variables

    xorl %r12d, %r12d                       // system table
    xorl %r13d, %r13d                       // our own handle
    leaq 8(%rbp), %rsi
1:  movl (%rsi), %eax
    cmpl $12, %eax
    cmoveq 8(%rsi), %r12
    cmpl $20, %eax
    cmoveq 8(%rsi), %r13
    movl 4(%rsi), %ecx
    addl $7, %ecx
    andl $~7, %ecx
    addq %rcx, %rsi
    testl %eax, %eax
    jnz 1b
    testq %r12, %r12
    jz efi_failed
    testq %r13, %r13
    jz efi_failed

    movq 96(%r12), %r14                     // boot services
    movl $8, %r12d                          // ending them may change the map: then both again
2:  movq $EFI_MAP_ROOM, boot_efi_map_size(%rbx)
    leaq boot_efi_map_size(%rbx), %rcx
    leaq boot_efi_map(%rbx), %rdx
    leaq 0x28(%rsp), %r8                    // the map's key
    leaq boot_efi_descriptor_size(%rbx), %r9
    leaq 0x30(%rsp), %rax                   // the descriptors' version
    movq %rax, 0x20(%rsp)
    call *56(%r14)                          // GetMemoryMap
    testq %rax, %rax
    jnz efi_failed
    movq %r13, %rcx
    movq 0x28(%rsp), %rdx
    call *232(%r14)                         // ExitBootServices
    testq %rax, %rax
    jz 3f
    decl %r12d
    jnz 2b
efi_failed:
    leaq efi_failed_text(%rbx), %rsi
    cli
    jmp say

    // To 32-bit mode without paging.
3:  cli
    leaq boot_gdt(%rbx), %rax
    movq %rax, boot_gdt_pointer + 2(%rbx)
    lgdt boot_gdt_pointer(%rbx)
    leaq 4f(%rip), %rax
    pushq $0x18
    pushq %rax
    lretq
    .code32
4:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $0x11, %eax                        // ET, PE
    movl %eax, %cr0
    xorl %eax, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx                  // EFER
    xorl %edx, %edx
    wrmsr
    movl %ebp, %ebx
    movl $MB2_MAGIC, %eax
    jmp radon_start32

    .section .boot.data, "aw"
efi_failed_text:
    .asciz "The EFI firmware does not end its boot services, or GRUB did not say where they are; Radon cannot start.\r\n"
    .balign 8
    // The firmware's memory map, if Radon ended boot services: its size in bytes, and that of its entries; else 0.
    .globl boot_efi_map_size, boot_efi_descriptor_size
boot_efi_map_size:
    .quad 0
boot_efi_descriptor_size:
    .quad 0
no_long_mode_text:
    .asciz "Radon needs a 64-bit processor (CPUID 0x80000001 EDX bit 29 is clear).\r\n"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                // 0x08: 64-bit code
    .quad 0x00cf93000000ffff                // 0x10: data
    .quad 0x00cf9b000000ffff                // 0x18: 32-bit code
boot_gdt_pointer:
    .short 31
    .quad 0                                 // its address is filled in

    .section .boot.bss, "aw", @nobits
    .balign 4096
    .globl boot_pml4
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4 * 4096
boot_pd_image:  .skip 4096
    .globl boot_efi_map
boot_efi_map:   .skip EFI_MAP_ROOM

    .section .text.start, "ax"
    .code64
    .type radon_start64, @function
radon_start64:
    movabsq $__boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %edi, %edi                         // zero-extend the arguments
    movl %esi, %esi
    movl %edx, %edx
    pushq $0                                // ends the frame chain, keeps the stack aligned at the call
    pushq $0
    call radon_boot_entry
1:  cli
    hlt
    jmp 1b

    .section .symbols, "a"
    .long 0x4d595352, 12, 0                 // "RSYM", bytes, number of names: none yet

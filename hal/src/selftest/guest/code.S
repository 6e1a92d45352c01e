// The programs of the test guest, in 64-bit mode at privilege level 0. The whole blob is copied to guest-physical (and
// linear) address CODE; it is position-independent. Host and guest talk through registers.
    .pushsection .rodata.test_guest, "a"
    .balign 16
    .global guest_begin, guest_end
guest_begin:

// Each instruction that leaves guest mode, in the order in which the test expects them.
    .global guest_exits
guest_exits:
    cpuid
    hlt
    vmmcall
    mov ecx, 0x1b
    rdmsr
    wrmsr
    out 0x80, al
    in eax, dx
    out dx, ax
    wbinvd
    invd
    rdpmc
    vmload
    vmsave
    clgi
    hlt

// Adds 1 to each register but RSP, for ever.
    .global guest_registers
guest_registers:
    .irp r, rax, rbx, rcx, rdx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    inc \r
    .endr
    vmmcall
    jmp guest_registers

// Reads what RBX points to into RAX, for ever.
    .global guest_read
guest_read:
    mov rax, [rbx]
    vmmcall
    jmp guest_read

// Writes RAX to where RBX points.
    .global guest_write
guest_write:
    mov [rbx], rax
    vmmcall

// Calls what RBX points to.
    .global guest_call
guest_call:
    call rbx
    vmmcall

// Waits with interrupts off, lets them in, counts in RAX until RCX steps are done.
    .global guest_window
guest_window:
    cli
    vmmcall
    xor eax, eax
    sti
    nop
1:  inc rax
    cmp rax, rcx
    jne 1b
    cli
    vmmcall

// Turns interrupts off, then spins.
    .global guest_spin_off
guest_spin_off:
    cli
// Spins.
    .global guest_spin
guest_spin:
    pause
    jmp guest_spin

// Sets the task priority from RAX and reads it to RCX, for ever.
    .global guest_priority
guest_priority:
    mov cr8, rax
    mov rcx, cr8
    vmmcall
    jmp guest_priority

// Interrupt handler of the test's vector: counts in R14, notes RSP in R13.
    .global guest_handler
guest_handler:
    inc r14
    mov r13, rsp
    vmmcall
    iretq

// Loads FPU and SSE registers with numbers made from RBX, then adds up in RAX how many still have them, for ever.
    .global guest_fpu
guest_fpu:
    fninit
    push rbx
    fild qword ptr [rsp]
    pop rcx
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    lea rcx, [rbx + \n]
    movq xmm\n, rcx
    .endr
1:  vmmcall
    xor eax, eax
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    lea rcx, [rbx + \n]
    movq rdx, xmm\n
    cmp rcx, rdx
    sete dl
    movzx edx, dl
    add rax, rdx
    .endr
    sub rsp, 8
    fist dword ptr [rsp]
    mov edx, [rsp]
    add rsp, 8
    cmp edx, ebx
    sete dl
    movzx edx, dl
    add rax, rdx
    jmp 1b

// Turns AVX on, fills the upper halves, and gives the one of register 7 back in RAX, for ever.
    .global guest_avx
guest_avx:
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    push rbx
    push rbx
    push rbx
    push rbx
    vmovups ymm7, [rsp]
    add rsp, 32
1:  vmmcall
    vextractf128 xmm0, ymm7, 1
    movq rax, xmm0
    jmp 1b

// Writes and reads debug registers.
    .global guest_debug
guest_debug:
    mov dr0, rbx
    lea rcx, [rbx + 1]
    mov dr3, rcx
    vmmcall
    mov rax, dr0
    mov rcx, dr3
    vmmcall

// An allowed port and allowed MSRs.
    .global guest_direct
guest_direct:
    out 0x80, al
    mov ecx, 0xc0000102
    wrmsr
    xor eax, eax
    xor edx, edx
    rdmsr
    swapgs
    vmmcall

// The time.
    .global guest_time
guest_time:
    rdtsc
    shl rdx, 32
    or rax, rdx
    vmmcall
    jmp guest_time

// An exception that nothing can handle.
    .global guest_fault
guest_fault:
    ud2

guest_end:
    .popsection

# mb.S: the smallest guest of the lab, a 9 KB multiboot kernel. Dozens of them fit where one Linux guest fits.
# It prints "ROOST-MB up", then idles in hlt at 100 Hz. Its kernel command line turns on work, all numbers decimal:
#   p=PAGES   pages made dirty each tick, from 4 MiB up, wrapping at the top of memory (load for live migration)
#   d=TICKS   ticks between writes of one sector to the first IDE disk, each in a new 64 KiB cluster (load for backup)
#   h=TICKS   ticks between heartbeats "HB <ticks in hex>" on the first serial port
# It has no ACPI and no guest agent: only power-off ends it. guest.sh builds it:
#   gcc -m32 -c -o mb.o mb.S && ld -m elf_i386 -Ttext=0x100000 -e _start -o mb.elf mb.o
.code32
.set MAGIC,0x1BADB002
.set FLAGS,0x2
.section .text
.align 4
.long MAGIC, FLAGS, -(MAGIC+FLAGS)
.globl _start
_start:
  cli
  mov $stack_top,%esp
  mov %ebx,%esi                 # multiboot info
  # params via command line "p=<pages/tick> d=<ticks/sector> h=<ticks/heartbeat>"  (decimal)
  testl $4,(%esi); jz 1f
  mov 16(%esi),%edi
  call parse
1: mov 8(%esi),%eax; shl $10,%eax; add $0x100000,%eax; mov %eax,memtop   # mem_upper KiB -> top
  lgdt gdtr; ljmp $8,$2f
2: mov $16,%ax; mov %ax,%ds; mov %ax,%es; mov %ax,%ss
  mov $idt+0x20*8,%edi; mov $tick,%eax; mov %ax,(%edi); movw $8,2(%edi); movw $0x8e00,4(%edi); shr $16,%eax; mov %ax,6(%edi)
  lidt idtr
  mov $0x11,%al; out %al,$0x20; out %al,$0xa0; mov $0x20,%al; out %al,$0x21; mov $0x28,%al; out %al,$0xa1
  mov $4,%al; out %al,$0x21; mov $2,%al; out %al,$0xa1; mov $1,%al; out %al,$0x21; out %al,$0xa1
  mov $0xfe,%al; out %al,$0x21; mov $0xff,%al; out %al,$0xa1
  mov $0x34,%al; out %al,$0x43; mov $(1193182/100),%ax; out %al,$0x40; mov %ah,%al; out %al,$0x40
  mov $msg,%esi; call puts
  movl $0x400000,ptr
  sti
3: hlt
  mov ticks,%eax; cmp last,%eax; je 3b; mov %eax,last
  mov pages,%ecx; jecxz 5f; mov ptr,%edi
4: mov %eax,(%edi); mov %edi,4(%edi); add $4096,%edi; cmp memtop,%edi; jb 6f; mov $0x400000,%edi
6: loop 4b
  mov %edi,ptr
5: mov ddiv,%ecx; jecxz 7f; mov ticks,%eax; xor %edx,%edx; div %ecx; test %edx,%edx; jnz 7f; call disk
7: mov hdiv,%ecx; jecxz 3b; mov ticks,%eax; xor %edx,%edx; div %ecx; test %edx,%edx; jnz 3b
  mov $hb,%esi; call puts; mov ticks,%eax; call hex; jmp 3b
tick: push %eax; incl ticks; mov $0x20,%al; out %al,$0x20; pop %eax; iret
puts: mov $0x3f8,%dx
1: lodsb; test %al,%al; jz 2f; out %al,%dx; jmp 1b
2: ret
hex: mov $0x3f8,%dx; mov $8,%ecx
1: rol $4,%eax; push %eax; and $15,%al; cmp $10,%al; jb 2f; add $39,%al
2: add $48,%al; out %al,%dx; pop %eax; loop 1b; mov $10,%al; out %al,%dx; ret
disk: # one sector PIO write: lba = (n * 128) % 16384 -> a new 64 KiB cluster each time
  mov $0x1f6,%dx; mov $0xe0,%al; out %al,%dx; inc %dx; in %dx,%al; cmp $0xff,%al; je 9f; test %al,%al; jz 9f
  mov lba,%ebx; mov $0x1f6,%dx; mov $0xe0,%al; out %al,%dx; mov $0x1f2,%dx; mov $1,%al; out %al,%dx
  inc %dx; mov %bl,%al; out %al,%dx; inc %dx; mov %bh,%al; out %al,%dx; inc %dx; mov %ebx,%eax; shr $16,%eax; out %al,%dx
  mov $0x1f7,%dx; mov $0x30,%al; out %al,%dx
  mov $100000,%ecx
1: in %dx,%al; test $0x80,%al; jnz 2f; test $8,%al; jnz 3f
2: loop 1b; jmp 9f
3: mov ticks,%eax; mov $sector,%edi; mov %eax,(%edi); mov %ebx,4(%edi); mov $0x1f0,%dx; mov $sector,%esi; mov $256,%ecx; rep outsw
  add $128,%ebx; and $0x3fff,%ebx; mov %ebx,lba
9: ret
parse: movb (%edi),%al; test %al,%al; jz 9f; cmpb $'=',1(%edi); jne 8f
  cmp $'p',%al; je 1f; cmp $'d',%al; je 2f; cmp $'h',%al; je 3f; jmp 8f
1: mov $pages,%ecx; jmp 4f
2: mov $ddiv,%ecx; jmp 4f
3: mov $hdiv,%ecx
4: add $2,%edi; xor %eax,%eax
5: movzbl (%edi),%edx; sub $48,%edx; cmp $9,%edx; ja 6f; imul $10,%eax; add %edx,%eax; inc %edi; jmp 5b
6: mov %eax,(%ecx); jmp parse
8: inc %edi; jmp parse
9: ret
.section .data
.align 8
gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr: .word 23; .long gdt
idtr: .word 0x21*8-1; .long idt
msg: .asciz "ROOST-MB up\n"
hb: .asciz "HB "
.align 4
pages: .long 0
ddiv: .long 0
hdiv: .long 0
ticks: .long 0
last: .long 0
ptr: .long 0
memtop: .long 0
lba: .long 0
sector: .ascii "ROOSTSEC"; .fill 504,1,0x5a
idt: .fill 0x21*8,1,0
.section .bss
.fill 4096
stack_top:

module callers

go 1.16

module backburn/spin

go 1.26.0

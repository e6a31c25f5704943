from flows.start import main

main()

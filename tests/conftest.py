"""What every test relies on."""

from dicomferry.pacs import keep_responses

# Many tests send with pynetdicom, which would now and then lose a response.
keep_responses()
